/* What a call of a server gives: events, the text of messages, datagrams to be sent. Given by the
 * caller and read by it afterwards, so that another thread's call can change none of it. */
#ifndef GNUTLS_COOKIE_TURN_H
#define GNUTLS_COOKIE_TURN_H

#include "address.h"
#include "seat.h"

enum gcookie_event_kind {
    GCOOKIE_MESSAGE = 0,   /* value: bytes; detail: where they stand in `text` */
    GCOOKIE_CONNECTED = 1, /* value: data_mtu; detail: the wire, which the server holds for the
                              reader until the connection has ended, or itself is freed */
    GCOOKIE_CLOSED = 2,    /* value: why; detail: the wire, with that hold; 0: CONNECTED was lost */
};

/* Four numbers, so that Python reads an array of them at once. */
struct gcookie_event {
    int64_t id; /* of the connection */
    int64_t kind;
    int64_t value;
    int64_t detail;
};

/* A handshake that came to nothing. */
struct gcookie_failure {
    uint64_t id;
    int reason;
    int error;
    int error_detail;
    int lookup_failed;
    union gcookie_address address;
};

/* Both ends of a path. */
struct gcookie_path {
    union gcookie_address address; /* the peer's */
    struct gcookie_source source;  /* ours */
};

struct gcookie_outgoing {
    struct gcookie_path path;
    uint64_t id;
    size_t at; /* in the seat */
    size_t size;
};

enum { GCOOKIE_FAILURES = 256 }; /* the oldest give way */

enum gcookie_turn_state {
    GCOOKIE_TURN_NEW = 0,     /* no call has had it */
    GCOOKIE_TURN_WORKING = 1, /* one is writing it */
    GCOOKIE_TURN_DONE = 2,    /* it may be read, in any thread */
};

struct gcookie_turn {
    struct gcookie_seat seat; /* gathers */
    struct gcookie_event *events;
    size_t event_count, event_capacity;
    size_t message_count, closed_count; /* of these, the MESSAGE and the CLOSED ones */
    unsigned char *text;
    size_t text_size, text_capacity;
    struct gcookie_outgoing *outgoing;
    size_t outgoing_count, outgoing_capacity;
    size_t collected;                 /* bytes of the seat that are in `outgoing` */
    union gcookie_address *forgotten; /* addresses that have no connection any more */
    size_t forgotten_count, forgotten_capacity;
    struct gcookie_failure *failures; /* a ring once it is full */
    size_t failure_count, failure_capacity;
    uint64_t lost;    /* messages, events and datagrams that there was no memory for */
    int state, calls; /* an enum gcookie_turn_state; calls within calls */
};

void gcookie_turn_init(struct gcookie_turn *turn);

/* Wipes and frees what it holds, and lets go of the wires. */
void gcookie_turn_clear(struct gcookie_turn *turn);

/* The same where it is to be used again: what is not too large of its memory it keeps. */
void gcookie_turn_reset(struct gcookie_turn *turn);

/* An enum gcookie_turn_state. */
int gcookie_turn_state(const struct gcookie_turn *turn);

/* For the server: a call begins to write, and has ended. */
void gcookie_turn_enter(struct gcookie_turn *turn);
void gcookie_turn_leave(struct gcookie_turn *turn);

/* For the server. 0 where there is no memory. */
int gcookie_turn_event(struct gcookie_turn *turn, uint64_t id, int kind, int64_t value,
                       int64_t detail);
int gcookie_turn_message(struct gcookie_turn *turn, uint64_t id, size_t size); /* of the seat */
void gcookie_turn_failure(struct gcookie_turn *turn, const struct gcookie_failure *failure);
void gcookie_turn_forget(struct gcookie_turn *turn, const union gcookie_address *address);

/* What the seat has got since the last time goes this way; or for nobody (NULL). */
void gcookie_turn_collect(struct gcookie_turn *turn, const struct gcookie_path *path, uint64_t id);

/* Nothing is to be sent any more: it was. */
void gcookie_turn_sent(struct gcookie_turn *turn);

/* The wire of the CLOSED event `at`, with one holder more, which the caller releases; 0 and NULL:
 * that is another event. */
struct gcookie_wire;
int gcookie_turn_hold_wire(const struct gcookie_turn *turn, size_t at, struct gcookie_wire **box);

#endif
