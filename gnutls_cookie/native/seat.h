/* What a call of a session needs for its length: room for what it sends, and for a message. */
#ifndef GNUTLS_COOKIE_SEAT_H
#define GNUTLS_COOKIE_SEAT_H

#include "guard.h"

enum { GCOOKIE_FIRST = 1 << 13 }; /* bytes for what a call sends, as a rule */

/* What a call needs for its length, whichever session's: given by the caller, one for each thread
 * that is in a call. */
struct gcookie_seat {
    struct gcookie_input input; /* what is to be read of the datagram */
    uintptr_t handle;           /* what PSK lookups go to; 0: nobody */
    /* The datagrams that were sent, each behind its size (uint32_t): in `first`, or where a flight
     * is longer than that, in memory of its own, which the next call frees. */
    unsigned char *out;
    size_t out_size;
    size_t out_capacity;
    size_t begun; /* of it, when the present call began */
    size_t last;  /* where the size of the last datagram stands */
    int gathers;  /* 1: what earlier calls sent stays before it; else each call begins anew */
    unsigned char first[GCOOKIE_FIRST];
    /* The message that gcookie_wire_receive read. No record is longer (RFC 6347 4.1: 2^14 and,
     * where a peer ignores that, what libgnutls takes besides). */
    unsigned char message[(1 << 14) + (1 << 11)];
    size_t written; /* bytes of it that ever were: to be wiped */
};

/* Before the first call. */
void gcookie_seat_init(struct gcookie_seat *seat);

/* Wipes it, and frees what it points to. It can be used again. */
void gcookie_seat_clear(struct gcookie_seat *seat);

/* A call begins. */
void gcookie_seat_begin(struct gcookie_seat *seat);

/* A record that is sent: into the datagram that this call began last, where that has no more than
 * `most` bytes then, or else into one of its own. 0 where there is no memory. */
int gcookie_seat_put(struct gcookie_seat *seat, const void *record, size_t size, size_t most);

/* Datagrams as they stand in a seat. 0 where there is no memory. */
int gcookie_seat_put_all(struct gcookie_seat *seat, const unsigned char *datagrams, size_t size);

/* The datagrams of this call in the opposite order. Without memory for that they stay as they are.
 */
void gcookie_seat_reverse(struct gcookie_seat *seat);

#endif
