/* Calls of libgnutls on a session with both directions of its wire in C: the one datagram that a
 * call may read, and those that it sends. Python is called only for PSK lookups. */
#ifndef GNUTLS_COOKIE_WIRE_H
#define GNUTLS_COOKIE_WIRE_H

#include "guard.h"
#include "transport.h"

enum { GCOOKIE_FIRST = 1 << 13 }; /* bytes for what a call sends, as a rule */

/* What a call needs for its length, whichever session's: given by the caller, one for each thread
 * that is in a call. */
struct gcookie_seat {
    /* The datagrams that were sent, each behind its size (uint32_t): in `first`, or where a flight
     * is longer than that, in memory of its own, which the next call frees. */
    unsigned char *out;
    size_t out_size;
    size_t out_capacity;
    size_t last; /* where the size of the last datagram stands */
    unsigned char first[GCOOKIE_FIRST];
    /* The message that gcookie_wire_receive read. No record is longer (RFC 6347 4.1: 2^14 and,
     * where a peer ignores that, what libgnutls takes besides). */
    unsigned char message[(1 << 14) + (1 << 11)];
};

/* One for each session, behind its gnutls_transport_ptr_t; outlives the session. */
struct gcookie_wire {
    gnutls_session_t session;
    struct gcookie_guard guard; /* before the handshake is complete */
    int established;            /* 1: it is */
    int timers_off;             /* 1: libgnutls' own timers have no effect any more */
    int64_t began[2];     /* nanoseconds of CLOCK_REALTIME: the handshake began between these */
    unsigned int resends; /* of the last flight, with nothing new from the peer */
    uint32_t answered;    /* the guard's `next` when they were counted */
    size_t flight_messages;
    size_t flight_bytes; /* with headers */
    unsigned int mtu;    /* bytes: what it was before losses made it smaller; 0: they have not */
    unsigned int small_mtu;
    /* for the length of a call */
    int busy;                   /* set and cleared atomically */
    struct gcookie_seat *seat;  /* where the call writes */
    uintptr_t handle;           /* what PSK lookups go to; 0: nobody */
    struct gcookie_input input; /* what is to be read of the datagram */
    int in_flight;              /* 1: the records that are sent may share datagrams */
    int due;                    /* 1: the last flight is to be sent again */
    int resending;              /* 1: that has begun */
    int pulled;                 /* content type of the record that was read last; 0: none */
    /* after it */
    size_t left;      /* bytes at the end of the datagram that were not read yet */
    int starved;      /* 1: nothing is left to be read: all further calls wait for a datagram */
    int ever_sent;    /* 1: something was sent, in whichever call */
    int resent;       /* 1: the last flight was sent again, as it was due */
    int wants_flight; /* 1: the peer says its Finished again, and libgnutls sent nothing */
    uint64_t dropped; /* records of a length that DTLS does not have */
};

/* Answers that are none of libgnutls'. */
enum {
    GCOOKIE_BUSY = -1000001,    /* another call of this session is under way; nothing was done */
    GCOOKIE_GOODBYE = -1000002, /* gcookie_wire_receive: the peer said close_notify */
    GCOOKIE_GONE = -1000003     /* wire->session is NULL: it is freed; nothing was done */
};

/* Before the first call. */
void gcookie_seat_init(struct gcookie_seat *seat);

/* Wipes it, and frees what it points to. It can be used again. */
void gcookie_seat_clear(struct gcookie_seat *seat);

/* Before the first call. The session's timers are the caller's from then on: libgnutls' own look at
 * CLOCK_REALTIME, which may be set. */
void gcookie_wire_attach(gnutls_session_t session, struct gcookie_wire *wire, int is_server);

/* After credentials and priorities are set: a server's first gnutls_handshake, with nothing to
 * read. 0, an error, or GNUTLS_E_TIMEDOUT: the thread was interrupted at the wrong moment, and the
 * session is lost (see wire.c); then another one is to be made. */
int gcookie_wire_begin(gnutls_session_t session, struct gcookie_wire *wire);

/* What gnutls_dtls_prestate_set was given: the message that is the first. */
void gcookie_wire_begin_at(struct gcookie_wire *wire, unsigned int hsk_read_seq);

/* Free what the wire holds; the session is gone, or makes no more calls. */
void gcookie_wire_clear(struct gcookie_wire *wire);

/* gnutls_psk_server_credentials_function2 for sessions with a wire: asks Python by the handle of
 * the call. Without one it is an error, and the handshake fails. */
void gcookie_psk_set_callback(gnutls_psk_server_credentials_t credentials);

/* Bytes at the start of a datagram that are whole records and end within `limit`. */
size_t gcookie_whole_records(const unsigned char *datagram, size_t size, size_t limit);

/* gnutls_handshake until it is complete (0), fails, or has read all (GNUTLS_E_AGAIN, starved). `in`
 * may be NULL with in_size 0: no datagram. What a bounded number of steps did not finish gives
 * GNUTLS_E_AGAIN without `starved`. `due`: the last flight is sent again (RFC 6347 4.2.4), unless
 * what is read makes that needless; it is never sent again otherwise. */
int gcookie_wire_handshake(gnutls_session_t session, struct gcookie_wire *wire,
                           struct gcookie_seat *seat, uintptr_t handle, const unsigned char *in,
                           size_t in_size, int due);

/* The next message: its size (0 too), in seat->message; GCOOKIE_GOODBYE; GNUTLS_E_REHANDSHAKE; a
 * fatal error; or GNUTLS_E_AGAIN as above. */
ssize_t gcookie_wire_receive(gnutls_session_t session, struct gcookie_wire *wire,
                             struct gcookie_seat *seat, const unsigned char *in, size_t in_size);

/* Bytes of the largest message that gcookie_wire_send takes: it fits the MTU, and the peer takes
 * it. */
size_t gcookie_wire_data_mtu(gnutls_session_t session);

/* gnutls_record_send, gnutls_bye (GNUTLS_SHUT_WR), gnutls_alert_send and
 * gnutls_alert_send_appropriate. */
ssize_t gcookie_wire_send(gnutls_session_t session, struct gcookie_wire *wire,
                          struct gcookie_seat *seat, const void *data, size_t size);
int gcookie_wire_bye(gnutls_session_t session, struct gcookie_wire *wire,
                     struct gcookie_seat *seat);
int gcookie_wire_alert(gnutls_session_t session, struct gcookie_wire *wire,
                       struct gcookie_seat *seat, int level, int description);
int gcookie_wire_alert_for(gnutls_session_t session, struct gcookie_wire *wire,
                           struct gcookie_seat *seat, int error);

#endif
