/* The flight that a side sent last: when it is due again, in how large datagrams, and after the
 * handshake. */
#include "wire.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double LONGEST_INTERVAL_SECONDS = 60.0; /* between retransmissions (4.2.4.1) */

enum {
    /* 576 and 296 bytes (RFC 1191 7.1) without the largest IPv4 header, 60 bytes, and UDP's 8. */
    MTU_AFTER_TWO = 508,
    MTU_AFTER_FOUR = 228,
    MOST_RECORDS = 31 /* of a flight: with more libgnutls fails (lib/buffers.c, MAX_QUEUE) */
};

/* Whether the last flight is of no more than MOST_RECORDS with this MTU. */
static int can_be_cut(const struct gcookie_handshake *handshake, unsigned int mtu) {
    const size_t piece = mtu - GCOOKIE_RECORD_HEADER_SIZE - GCOOKIE_MESSAGE_HEADER_SIZE;
    return handshake->flight_messages + handshake->flight_bytes / piece <= MOST_RECORDS;
}

/* The last flight is about to be sent again. Where it was lost twice already, the path may not take
 * datagrams of that size, and no router says so (RFC 6347 4.1.1.1). libgnutls cuts messages by the
 * MTU each time that it sends them (lib/dtls.c). A ClientHello stays whole: many servers take no
 * fragment of one before they have verified the client. */
void gcookie_flight_shrink(struct gcookie_wire *wire) {
    struct gcookie_handshake *const handshake = wire->handshake;
    const unsigned int mtu = gnutls_dtls_get_mtu(wire->session);
    unsigned int smaller = handshake->resends >= 3 ? MTU_AFTER_FOUR : MTU_AFTER_TWO;
    if (handshake->resends == 0 || !(handshake->guard.is_server || handshake->guard.greeted))
        return;
    while (smaller < mtu && !can_be_cut(handshake, smaller))
        smaller++;
    if (smaller >= mtu)
        return;
    if (handshake->mtu == 0)
        handshake->mtu = mtu;
    handshake->small_mtu = smaller;
    gnutls_dtls_set_mtu(wire->session, smaller);
}

/* With the smaller MTU every other time the last datagram goes first. What arrived of the first try
 * is the end of a message, as a rule, and libgnutls at the other side keeps of a message one piece
 * alone, to which it adds what touches it (lib/buffers.c, merge_handshake_packet): from its end
 * back to its start, and then, in the order of the next try, all of it. Others bear any order. */
void gcookie_flight_order(struct gcookie_wire *wire) {
    const struct gcookie_handshake *const handshake = wire->handshake;
    if (wire->resent && handshake->mtu > 0 && handshake->resends % 2 == 1)
        gcookie_seat_reverse(wire->seat);
}

/* The losses may have been of another kind, and messages are the application's to cut. */
static void restore(const struct gcookie_wire *wire) {
    const struct gcookie_handshake *const handshake = wire->handshake;
    if (handshake->mtu > 0 && gnutls_dtls_get_mtu(wire->session) == handshake->small_mtu)
        gnutls_dtls_set_mtu(wire->session, handshake->mtu);
}

static void count_resends(const struct gcookie_wire *wire) {
    struct gcookie_handshake *const handshake = wire->handshake;
    if (handshake->guard.next != handshake->answered) {
        handshake->answered = handshake->guard.next;
        handshake->resends = 0;
    } else if (wire->resent) {
        handshake->resends++;
    }
}

/* How long a flight is, in case that it must be cut into smaller pieces. */
void gcookie_flight_measure(struct gcookie_wire *wire, const unsigned char *record, size_t size) {
    struct gcookie_handshake *const handshake = wire->handshake;
    const int is_rest =
        size >= GCOOKIE_RECORD_HEADER_SIZE + GCOOKIE_MESSAGE_HEADER_SIZE &&
        record[0] == GCOOKIE_HANDSHAKE && record[3] == 0 && record[4] == 0 &&
        (record[19] != 0 || record[20] != 0 || record[21] != 0); /* its fragment_offset */
    if (handshake == NULL)
        return; /* libgnutls answers a repeated Finished */
    if (wire->seat->out_size == wire->seat->begun)
        handshake->flight_messages = handshake->flight_bytes = 0;
    handshake->flight_messages += !is_rest;
    handshake->flight_bytes += size;
}

/* When the flight that was sent last is due again. */
void gcookie_flight_set_timer(struct gcookie_wire *wire, double now, int was_due, int has_sent) {
    struct gcookie_handshake *const handshake = wire->handshake;
    const double first = wire->settings->retransmit_seconds;

    if (was_due && (wire->resent || !has_sent)) {
        handshake->interval = fmax(first, fmin(2 * handshake->interval, LONGEST_INTERVAL_SECONDS));
        handshake->due_at = now + handshake->interval;
    } else if (has_sent) {
        handshake->interval = first;
        handshake->due_at = now + handshake->interval;
    }
    if (has_sent)
        handshake->sent_at = now;
    count_resends(wire);
    if (handshake->guard.heard) {
        /* The way is open again, and what the peer repeats says that it lacks our flight (RFC 6347
         * 4.2.4, 4.2.4.1). A stranger can say it too: no more often than at first. */
        handshake->guard.heard = 0;
        handshake->interval = first;
        if (!isinf(handshake->sent_at))
            handshake->due_at = fmin(handshake->due_at, handshake->sent_at + handshake->interval);
    }
}

/* Without memory for it the peer may wait for it in vain. */
void gcookie_flight_keep(struct gcookie_wire *wire, const unsigned char *sent, size_t size) {
    restore(wire);
    if (size > 0)
        wire->flight = malloc(size);
    if (wire->flight != NULL) {
        memcpy(wire->flight, sent, size);
        wire->flight_size = (uint32_t)size;
    }
}

/* The peer says its Finished again: it lacks ours, and libgnutls has forgotten it, by a clock that
 * may be set. That the record numbers are the same does no harm: they did not arrive. */
void gcookie_flight_again(struct gcookie_wire *wire) {
    if (wire->flight != NULL)
        (void)gcookie_seat_put_all(wire->seat, wire->flight, wire->flight_size);
}

void gcookie_flight_drop(struct gcookie_wire *wire) {
    free(wire->flight);
    wire->flight = NULL;
    wire->flight_size = 0;
}
