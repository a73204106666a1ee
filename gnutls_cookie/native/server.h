/* Sessions by address, with timers and limits: what a server is behind the gate. Verified clients
 * and datagrams of their addresses go in; events, text and datagrams come out in a struct
 * gcookie_turn. No descriptor, no clock: `now` is an argument, in seconds.
 *
 * Of each address there is one connection, and while a client comes back from the same port a
 * second one, which takes the place of the first once its handshake is complete (RFC 6347 4.2.8).
 *
 * One call at a time: another one that comes meanwhile, from a PSK lookup or from another thread,
 * does nothing and gives GCOOKIE_BUSY. */
#ifndef GNUTLS_COOKIE_SERVER_H
#define GNUTLS_COOKIE_SERVER_H

#include "admission.h"
#include "connections.h"
#include "turn.h"

enum gcookie_close_reason {
    GCOOKIE_CLOSED_LOCAL = 0,
    GCOOKIE_CLOSED_PEER = 1,
    GCOOKIE_CLOSED_REPLACED = 2,
    GCOOKIE_CLOSED_IDLE = 3,
    GCOOKIE_CLOSED_TIMED_OUT = 4,
    GCOOKIE_CLOSED_FAILED = 5,
    GCOOKIE_CLOSED_DISPLACED = 6, /* a handshake, for the sake of a newer one */
};
enum { GCOOKIE_CLOSE_REASONS = 7 };

/* As ServerCounters in server.py has them. */
struct gcookie_server_counters {
    uint64_t sessions, handshaking; /* what is */
    uint64_t connected;             /* what was, from here on */
    uint64_t resumed;
    uint64_t refused;
    uint64_t session_errors;
    uint64_t duplicates;
    uint64_t strays;
    uint64_t records_refused;
    uint64_t messages_received;
    uint64_t messages_sent;
    uint64_t closed[GCOOKIE_CLOSE_REASONS];
    uint64_t refused_by[GCOOKIE_REFUSALS];
};

struct gcookie_server {
    struct gcookie_server_counters counters;
    struct gcookie_limits limits;
    double idle_seconds;               /* may be infinity */
    struct gcookie_settings *settings; /* of new sessions */
    int tells_forgotten;               /* 1: addresses without a connection are told of */
    /* for a PSK lookup: which connection and which settings ask */
    uint64_t asking_id;
    uintptr_t asking_settings;
    size_t most_due; /* timers in one call of gcookie_server_handle_timeout; 0: all that are due */
    /* inside */
    int busy;
    struct gcookie_connections connections;
    struct gcookie_link untold; /* have ended, and there was no memory to tell of it */
    /* for the length of a call */
    struct gcookie_turn *turn;
    uintptr_t handle;
    double now;
};

/* 0, or a negative code of libgnutls. */
int gcookie_server_new(struct gcookie_server **box);

/* Sessions that others hold live on. *box is NULL then. */
void gcookie_server_free(struct gcookie_server **box);

/* New sessions have these from now on. */
int gcookie_server_set(struct gcookie_server *server, struct gcookie_settings *settings);

/* One datagram, and the way that answers go: of a client that was verified (`prestate`), or of an
 * address that has a connection (NULL). `handle` is what PSK lookups go to. 0, or GCOOKIE_BUSY, as
 * all that follow. */
int gcookie_server_receive(struct gcookie_server *server, struct gcookie_turn *turn,
                           const struct gcookie_path *path, const unsigned char *datagram,
                           size_t size, gnutls_dtls_prestate_st *prestate, double now,
                           uintptr_t handle);

/* A datagram, where its address has a connection whose handshake is complete, and no other. Else it
 * does nothing. Returns the same as gcookie_server_has(). */
int gcookie_server_receive_connected(struct gcookie_server *server, struct gcookie_turn *turn,
                                     const struct gcookie_path *path, const unsigned char *datagram,
                                     size_t size, double now, uintptr_t handle);

/* A verified client that was turned away before it came here. */
void gcookie_server_refuse(struct gcookie_server *server, enum gcookie_refusal refusal);

/* What is due: flights are sent again, handshakes and idle connections end. */
int gcookie_server_handle_timeout(struct gcookie_server *server, struct gcookie_turn *turn,
                                  double now, uintptr_t handle);

/* Seconds until that wants to be called; negative: no timer runs. GCOOKIE_BUSY, too. */
double gcookie_server_timeout(struct gcookie_server *server, double now);

/* A message: its size, GNUTLS_E_INVALID_SESSION (the connection is no more), or another error. */
ssize_t gcookie_server_send(struct gcookie_server *server, struct gcookie_turn *turn, uint64_t id,
                            const void *data, size_t size, double now);

/* Say goodbye to one, or to all. */
int gcookie_server_close(struct gcookie_server *server, struct gcookie_turn *turn, uint64_t id);
int gcookie_server_close_all(struct gcookie_server *server, struct gcookie_turn *turn);

/* Whether an address has a connection; 0: none. */
enum {
    GCOOKIE_CONNECTED_ALONE = 1, /* one whose handshake is complete, and no other */
    GCOOKIE_IN_HANDSHAKE = 2,    /* one whose handshake is not */
};
int gcookie_server_has(struct gcookie_server *server, const union gcookie_address *address);

#endif
