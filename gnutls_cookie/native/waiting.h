/* Datagrams that wait for their turn: verified hellos, or what comes in a handshake. What costs a
 * signature or a key exchange waits, so that peers that are connected do not. Of several networks
 * each is served in turn, however much one of them sends. For one thread at a time. */
#ifndef GNUTLS_COOKIE_WAITING_H
#define GNUTLS_COOKIE_WAITING_H

#include "shares.h"
#include "turn.h"

#include <gnutls/dtls.h>

enum {
    GCOOKIE_MOST_WAITING = 512,
    GCOOKIE_MOST_WAITING_OF_PREFIX = 384,
};

struct gcookie_waiter {
    struct gcookie_waiter *next;
    struct gcookie_path path;
    unsigned char peer[GCOOKIE_ADDRESS_KEY_SIZE];
    int is_hello;
    gnutls_dtls_prestate_st prestate; /* of a hello */
    unsigned char prefix[GCOOKIE_SHARE_KEY_SIZE];
    size_t size;
    unsigned char datagram[];
};

struct gcookie_waiting {
    struct gcookie_waiter *first; /* the oldest; NULL: none */
    unsigned int count;
    unsigned char served[GCOOKIE_SHARE_KEY_SIZE]; /* the network that was last */
};

/* A copy of a datagram waits. With `prestate` it is a hello, and a former one of its address and
 * port gives its place to it. 0: it does not: too many do, or there is no memory. */
int gcookie_waiting_put(struct gcookie_waiting *waiting, const struct gcookie_path *path,
                        const gnutls_dtls_prestate_st *prestate, const unsigned char *datagram,
                        size_t size);

/* The next one, for the caller to free: the oldest of another network than the last one's, if there
 * is one. NULL: none. */
struct gcookie_waiter *gcookie_waiting_take(struct gcookie_waiting *waiting);

void gcookie_waiting_clear(struct gcookie_waiting *waiting);

#endif
