/* A turn of a served socket: what waits there, through the gate, to the sessions, and what they say
 * back to the socket; one call, in which Python is asked for pre-shared keys alone. */
#ifndef GNUTLS_COOKIE_SERVE_H
#define GNUTLS_COOKIE_SERVE_H

#include "counters.h"
#include "server.h"
#include "udp.h"
#include "waiting.h"

enum { GCOOKIE_SERVE_BATCH = 64 }; /* datagrams in one system call */

struct gcookie_serve {
    /* Of Python: empty once what they held was freed. */
    struct gcookie_udp **udp_box; /* that admits all */
    struct gcookie_server **server_box;
    double due; /* after a turn: when the next one is wanted; infinity: no timer runs; minus
                 * infinity: it has not done all */
    /* inside */
    struct gcookie_udp *udp; /* for the length of a call */
    struct gcookie_server *server;
    unsigned int arrived, taken;    /* arrivals in the buffers of udp; the first that is not done */
    int busy;                       /* 1: the buffers are in use */
    struct gcookie_waiting waiting; /* hellos, for a later turn */
    struct gcookie_waiting handshakes; /* what came from peers in their handshake, likewise */
    int has_more;         /* 1: a turn would have something to do of which no descriptor tells */
    uint64_t send_errors; /* datagrams that the kernel did not take */
};

/* Frees what waits. */
void gcookie_serve_clear(struct gcookie_serve *serve);

/* What gcookie_serve_turn tells, as bits. */
enum {
    GCOOKIE_SERVE_NEWS = 1, /* something else happened than that messages came and were answered */
    GCOOKIE_SERVE_ASKS = 2, /* handshakes are under way: the next turn may ask for a key */
};

/* `handle`: 0 where nothing can ask. -EBADF: it was freed. -EBUSY, or GCOOKIE_BUSY: another call is
 * under way, and nothing was done. Other negative numbers: -errno of a socket that is of no use any
 * more. */

/* Waits until a datagram is there for gcookie_serve_turn; strangers are answered. At most for the
 * longer of the two times. This one may run beside calls of the server. 1: there is one. */
int gcookie_serve_wait(struct gcookie_serve *serve, int fd, const struct gcookie_keys *keys,
                       struct gcookie_counters *counters, unsigned int wait_ms,
                       unsigned int work_ms);

/* Takes batches for at most `work_ms` and one batch; what comes from peers that are connected is
 * done at once. Then handshakes go on for at most as long and one datagram, sessions begin for at
 * most as long and one of them, and timers are served for as long again and some of them. What
 * sessions say goes out by the descriptor `out`. */
int gcookie_serve_turn(struct gcookie_serve *serve, int fd, int out,
                       const struct gcookie_keys *keys, struct gcookie_counters *counters,
                       unsigned int work_ms, struct gcookie_turn *turn, double now,
                       uintptr_t handle);

/* Encrypts and sends messages that stand one after the other in `data`, sizes[i] bytes for the
 * connection ids[i]. Those of connections that are no more are lost. `turn` has nothing to tell
 * afterwards. */
int gcookie_serve_send(struct gcookie_serve *serve, int out, struct gcookie_turn *turn,
                       const uint64_t *ids, const uint32_t *sizes, size_t count,
                       const unsigned char *data, size_t data_size, double now);

/* The same for one message. */
int gcookie_serve_send_one(struct gcookie_serve *serve, int out, struct gcookie_turn *turn,
                           uint64_t id, const unsigned char *data, size_t size, double now);

#endif
