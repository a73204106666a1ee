/* Where a call of a session writes. */
#include "seat.h"

#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>

/* Room for `more` bytes in the seat; 0 where there is no memory. */
static int make_room(struct gcookie_seat *seat, size_t more) {
    size_t capacity = seat->out_capacity;
    unsigned char *grown;

    if (more <= capacity - seat->out_size)
        return 1;
    while (more > capacity - seat->out_size) {
        if (capacity > SIZE_MAX / 2)
            return 0;
        capacity *= 2;
    }
    grown = realloc(seat->out == seat->first ? NULL : seat->out, capacity);
    if (grown == NULL)
        return 0;
    if (seat->out == seat->first)
        memcpy(grown, seat->first, seat->out_size);
    seat->out = grown;
    seat->out_capacity = capacity;
    return 1;
}

void gcookie_seat_init(struct gcookie_seat *seat) {
    seat->out = seat->first;
    seat->out_capacity = sizeof seat->first;
    seat->out_size = seat->begun = seat->last = 0;
    seat->gathers = 0;
    seat->written = 0;
    seat->input = (struct gcookie_input){NULL, 0, NULL, 0};
    seat->handle = 0;
}

/* Nothing is sent yet. */
static void clear(struct gcookie_seat *seat) {
    if (seat->out != seat->first)
        free(seat->out);
    seat->out = seat->first;
    seat->out_capacity = sizeof seat->first;
    seat->out_size = 0;
}

void gcookie_seat_clear(struct gcookie_seat *seat) {
    gnutls_memset(seat->message, 0, seat->written);
    seat->written = 0;
    clear(seat);
}

void gcookie_seat_begin(struct gcookie_seat *seat) {
    if (!seat->gathers)
        clear(seat);
    seat->begun = seat->out_size;
}

int gcookie_seat_put(struct gcookie_seat *seat, const void *record, size_t size, size_t most) {
    uint32_t datagram = 0;

    if (!make_room(seat, sizeof datagram + size))
        return 0;
    if (seat->out_size > seat->begun)
        memcpy(&datagram, seat->out + seat->last, sizeof datagram);
    if (datagram == 0 || datagram + size > most) {
        datagram = 0;
        seat->last = seat->out_size;
        seat->out_size += sizeof datagram;
    }
    datagram += (uint32_t)size;
    memcpy(seat->out + seat->last, &datagram, sizeof datagram);
    memcpy(seat->out + seat->out_size, record, size);
    seat->out_size += size;
    return 1;
}

int gcookie_seat_put_all(struct gcookie_seat *seat, const unsigned char *datagrams, size_t size) {
    if (!make_room(seat, size))
        return 0;
    memcpy(seat->out + seat->out_size, datagrams, size);
    seat->out_size += size;
    return 1;
}

void gcookie_seat_reverse(struct gcookie_seat *seat) {
    const size_t all = seat->out_size - seat->begun;
    unsigned char *const sent = seat->out + seat->begun;
    unsigned char *copy = malloc(all);
    size_t from = 0;

    if (copy == NULL)
        return;
    memcpy(copy, sent, all);
    while (from < all) {
        uint32_t datagram;
        memcpy(&datagram, copy + from, sizeof datagram);
        const size_t size = sizeof datagram + datagram;
        memcpy(sent + (all - from - size), copy + from, size);
        from += size;
    }
    seat->last = seat->begun;
    free(copy);
}
