/* The set of admitted peers, and of the addresses that were verified a moment ago. From any thread,
 * and in a forked child whose parent held the lock: a fork waits for it. */
#ifndef GNUTLS_COOKIE_PEERS_H
#define GNUTLS_COOKIE_PEERS_H

#include "address.h"

struct gcookie_peers;

/* At most `max` admitted peers. NULL where there is no memory. */
struct gcookie_peers *gcookie_peers_new(size_t max);

/* NULL is fine. */
void gcookie_peers_free(struct gcookie_peers *peers);

/* Drops the addresses that were verified earlier and not admitted since. */
void gcookie_peers_begin(struct gcookie_peers *peers);

/* By struct sockaddr_in or sockaddr_in6. 0, or -ENOSPC (`max` are there), -ENOMEM,
 * -EAFNOSUPPORT. */
int gcookie_peers_admit(struct gcookie_peers *peers, const void *address, size_t size);
int gcookie_peers_forget(struct gcookie_peers *peers, const void *address, size_t size);
size_t gcookie_peers_count(struct gcookie_peers *peers);

/* Between these two: for the two functions below, which take no lock themselves, so that a batch of
 * datagrams takes it once. */
void gcookie_peers_lock(struct gcookie_peers *peers);
void gcookie_peers_unlock(struct gcookie_peers *peers);

/* Whether the address is admitted, or was verified since gcookie_peers_begin. */
int gcookie_peers_admits(struct gcookie_peers *peers, const union gcookie_address *address);
void gcookie_peers_note_verified(struct gcookie_peers *peers, const union gcookie_address *address);

#endif
