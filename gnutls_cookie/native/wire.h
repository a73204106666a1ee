/* Calls of libgnutls on a session with both directions of its wire in C: the one datagram that a
 * call may read, and those that it sends. Python is called only for PSK lookups. */
#ifndef GNUTLS_COOKIE_WIRE_H
#define GNUTLS_COOKIE_WIRE_H

#include "guard.h"
#include "seat.h"
#include "settings.h"

/* What a session needs until its handshake is over. */
struct gcookie_handshake {
    struct gcookie_guard guard;
    int64_t began[2]; /* nanoseconds of CLOCK_REALTIME: the handshake began between these */
    /* The timers, in seconds of the caller's clock; infinity: does not run. */
    double deadline; /* when it has failed */
    double due_at;   /* when the flight that was sent last is to be sent again */
    double sent_at;  /* when it was sent; minus infinity: never */
    double interval; /* seconds from there to the next time */
    size_t flight_messages;
    size_t flight_bytes;  /* with headers */
    unsigned int resends; /* of the last flight, with nothing new from the peer */
    uint32_t answered;    /* the guard's `next` when they were counted */
    unsigned int mtu;     /* bytes: what it was before losses made it smaller; 0: they have not */
    unsigned int small_mtu;
};

/* One side of a connection: the session, and all that is known about it. Counted by those that hold
 * it. The first member of whatever memory it is part of. It has as many as there are connections,
 * so what is 0 or 1 is a byte. */
struct gcookie_wire {
    gnutls_session_t session;
    struct gcookie_settings *settings;
    size_t holders;
    struct gcookie_handshake *handshake; /* NULL once it is over */
    /* With our Finished, where the peer may lack it: datagrams as in a seat. */
    unsigned char *flight;
    struct gcookie_seat *seat; /* of the call that is under way; or NULL */
    uint64_t dropped;          /* records of a length that DTLS does not have */
    uint64_t refused;          /* by the guard, once the handshake is over */
    uint32_t flight_size;      /* bytes */
    uint32_t fits; /* what gcookie_wire_data_mtu gave with this MTU; fits_mtu 0: not asked */
    uint32_t fits_mtu;
    size_t left; /* after a call: bytes at the end of the datagram that were not read yet */
    int error;
    int error_detail; /* the alert that came, why a certificate is not trusted, or clues */
    uint8_t is_server;
    uint8_t established; /* 1: the handshake is complete */
    uint8_t failed;      /* 1: with `error` */
    uint8_t closed;      /* 1: we said goodbye */
    uint8_t peer_closed; /* 1: the peer did */
    uint8_t timers_off;  /* 1: libgnutls' own timers have no effect any more */
    uint8_t ever_sent;   /* 1: something was sent, in whichever call */
    /* for the length of a call */
    uint8_t busy;          /* set and cleared atomically */
    uint8_t in_flight;     /* 1: the records that are sent may share datagrams */
    uint8_t due;           /* 1: the last flight is to be sent again */
    uint8_t resending;     /* 1: that has begun */
    uint8_t resent;        /* 1: and is done */
    uint8_t pulled;        /* content type of the record that was read last; 0: none */
    uint8_t lookup_failed; /* 1: Python could not say a key */
    uint8_t
        starved; /* after it, 1: nothing is left to be read: further calls wait for a datagram */
};

/* Answers that are none of libgnutls'. */
enum {
    GCOOKIE_BUSY = -1000001,    /* another call of this session is under way; nothing was done */
    GCOOKIE_GOODBYE = -1000002, /* gcookie_wire_receive: the peer said close_notify */
};

/* Clues, with GNUTLS_E_TIMEDOUT and GNUTLS_E_UNEXPECTED_PACKET: bits. */
enum {
    GCOOKIE_CLUE_GOODBYE = 1, /* the peer gave up the handshake, with a goodbye */
    GCOOKIE_CLUE_KEY = 2,     /* all but the proof that both sides have the same PSK */
};
int gcookie_wire_clues(const struct gcookie_wire *wire);

/* With GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR: no gnutls_certificate_status_t has these. */
enum { GCOOKIE_RAW_KEY_UNKNOWN = 1 << 30, GCOOKIE_KEY_COSTLY = 1 << 29 };

/* A new session, with one holder: `size` bytes, of which the wire is the first, and zeros. 0, or an
 * error; then *what names the setting that it is about, or is "". The session's timers are those of
 * the wire, not libgnutls' own, which look at CLOCK_REALTIME, which may be set. */
int gcookie_wire_new(struct gcookie_wire **box, size_t size, struct gcookie_settings *settings,
                     const char **what);

/* The parts of it that know libgnutls' callbacks: after gnutls_init, and after credentials and
 * priorities are set. The latter is a server's first gnutls_handshake, with nothing to read: 0, an
 * error, or GNUTLS_E_TIMEDOUT: the thread was interrupted at the wrong moment (see wire.c), and the
 * session is lost. */
void gcookie_wire_attach(struct gcookie_wire *wire);
int gcookie_wire_begin(struct gcookie_wire *wire);

/* GNUTLS_E_NO_APPLICATION_PROTOCOL where none was agreed on, or 0. GNUTLS_ALPN_MANDATORY lets a
 * peer pass that does not name any (lib/ext/alpn.c). */
int gcookie_wire_lacks_alpn(gnutls_session_t session);

/* What was given to gnutls_dtls_prestate_set: the message that is the first. */
void gcookie_wire_begin_at(struct gcookie_wire *wire, unsigned int hsk_read_seq);

/* The name of the profile of DTLS-SRTP that was agreed on, or NULL. */
const char *gcookie_srtp_profile(gnutls_session_t session);

void gcookie_wire_hold(struct gcookie_wire *wire);

/* One that stands at an address, and is held by somebody for as long as this takes: one holder
 * more. */
void gcookie_wire_hold_at(uintptr_t address, struct gcookie_wire **box);

/* One holder fewer, and *box is NULL; with the last one the session is gone. */
void gcookie_wire_release(struct gcookie_wire **box);

/* Free what only a handshake needs, and what comes after it. */
void gcookie_wire_clear(struct gcookie_wire *wire);

/* Bytes at the start of a datagram that are whole records and end within `limit`. */
size_t gcookie_whole_records(const unsigned char *datagram, size_t size, size_t limit);

/* gnutls_handshake until it is complete (0), fails, or has read all (GNUTLS_E_AGAIN, starved). `in`
 * may be NULL with in_size 0: no datagram. What a bounded number of steps did not finish gives
 * GNUTLS_E_AGAIN without `starved`. Where `now` is not before due_at the last flight is sent again
 * (RFC 6347 4.2.4), unless what is read makes that needless; it is never sent again otherwise. A
 * handshake that fails has told the peer so, where there is an alert for it. */
int gcookie_wire_handshake(struct gcookie_wire *wire, struct gcookie_seat *seat, uintptr_t handle,
                           const unsigned char *in, size_t in_size, double now);

/* Seconds until gcookie_wire_handshake wants to be called, from `now`; negative: no timer runs. */
double gcookie_wire_timeout(const struct gcookie_wire *wire, double now);

/* The next message: its size (0 too), in seat->message; GCOOKIE_GOODBYE, which is answered; a fatal
 * error; or GNUTLS_E_AGAIN as above. */
ssize_t gcookie_wire_receive(struct gcookie_wire *wire, struct gcookie_seat *seat,
                             const unsigned char *in, size_t in_size);

/* Bytes of the largest message that gcookie_wire_send takes: it fits the MTU, and the peer takes
 * it. */
size_t gcookie_wire_data_mtu(gnutls_session_t session);

/* One message as one record: its size, or an error. */
ssize_t gcookie_wire_send(struct gcookie_wire *wire, struct gcookie_seat *seat, const void *data,
                          size_t size);

/* Say goodbye, once. During the handshake user_canceled goes before it (RFC 5246 7.2.2). */
int gcookie_wire_close(struct gcookie_wire *wire, struct gcookie_seat *seat);

/* gnutls_alert_send. */
int gcookie_wire_alert(struct gcookie_wire *wire, struct gcookie_seat *seat, int level,
                       int description);

/* --- flight.c: what is sent again ------------------------------------------------------------- */

/* A record of the flight that is being sent. */
void gcookie_flight_measure(struct gcookie_wire *wire, const unsigned char *record, size_t size);

/* Before the last flight is sent again: a smaller MTU, where that may be what it was lost by. */
void gcookie_flight_shrink(struct gcookie_wire *wire);

/* After a call of the handshake that did not end it: the order of the datagrams. */
void gcookie_flight_order(struct gcookie_wire *wire);

/* After a call of the handshake that did not end it: when the last flight is due again. */
void gcookie_flight_set_timer(struct gcookie_wire *wire, double now, int was_due, int has_sent);

/* The handshake is complete: what was sent last is kept, and the MTU is what it was. */
void gcookie_flight_keep(struct gcookie_wire *wire, const unsigned char *sent, size_t size);
void gcookie_flight_again(struct gcookie_wire *wire);
void gcookie_flight_drop(struct gcookie_wire *wire);

/* Bytes of messages that are not whole yet. */
uint32_t gcookie_wire_kept(const struct gcookie_wire *wire);

/* Records and fragments that the guard refused. */
uint64_t gcookie_wire_refused(const struct gcookie_wire *wire);

#endif
