/* What a call of a server gives. */
#include "turn.h"
#include "wire.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST = 64 };          /* entries */
enum { FIRST_TEXT = 4096 };   /* bytes */
enum { MOST_HELD = 1 << 19 }; /* bytes that a turn holds while it is empty */

/* Room for `more` entries of `size` bytes behind `count` of them. 0 where there is no memory. */
static int grow(void **memory, size_t *capacity, size_t count, size_t more, size_t size) {
    size_t wanted = *capacity == 0 ? LEAST : *capacity;
    void *grown;

    if (more <= *capacity - count)
        return 1;
    while (wanted - count < more) {
        if (wanted > SIZE_MAX / 2)
            return 0;
        wanted *= 2;
    }
    if (wanted > SIZE_MAX / size)
        return 0;
    grown = realloc(*memory, wanted * size);
    if (grown == NULL)
        return 0;
    *memory = grown;
    *capacity = wanted;
    return 1;
}

void gcookie_turn_init(struct gcookie_turn *turn) {
    gcookie_seat_init(&turn->seat);
    turn->seat.gathers = 1;
    memset((char *)turn + sizeof turn->seat, 0, sizeof *turn - sizeof turn->seat);
}

/* NULL: the event is another one. */
static struct gcookie_wire *wire_of(const struct gcookie_turn *turn, size_t at) {
    if (at >= turn->event_count || turn->events[at].kind != GCOOKIE_CLOSED)
        return NULL;
    return (struct gcookie_wire *)(uintptr_t)turn->events[at].detail;
}

/* Nothing of it can be read any more, and no wire is held. */
static void wipe(struct gcookie_turn *turn) {
    for (size_t at = 0; at < turn->event_count; at++) {
        struct gcookie_wire *wire = wire_of(turn, at);
        gcookie_wire_release(&wire);
    }
    if (turn->text_size > 0)
        gnutls_memset(turn->text, 0, turn->text_size);
    turn->event_count = turn->message_count = turn->closed_count = turn->text_size = 0;
}

void gcookie_turn_reset(struct gcookie_turn *turn) {
    const size_t held = turn->text_capacity + turn->seat.out_capacity +
                        turn->event_capacity * sizeof *turn->events +
                        turn->outgoing_capacity * sizeof *turn->outgoing +
                        turn->forgotten_capacity * sizeof *turn->forgotten;
    if (held > MOST_HELD) {
        gcookie_turn_clear(turn);
        return;
    }
    wipe(turn);
    gnutls_memset(turn->seat.message, 0, turn->seat.written);
    turn->seat.written = turn->seat.out_size = turn->collected = 0;
    turn->outgoing_count = turn->forgotten_count = turn->failure_count = 0;
    turn->lost = 0;
    turn->state = GCOOKIE_TURN_NEW;
}

void gcookie_turn_clear(struct gcookie_turn *turn) {
    wipe(turn);
    free(turn->events);
    free(turn->text);
    free(turn->outgoing);
    free(turn->forgotten);
    free(turn->failures);
    turn->seat.gathers = 0;
    gcookie_seat_clear(&turn->seat);
    gcookie_turn_init(turn);
}

int gcookie_turn_state(const struct gcookie_turn *turn) {
    return __atomic_load_n(&turn->state, __ATOMIC_ACQUIRE);
}

void gcookie_turn_enter(struct gcookie_turn *turn) {
    if (turn->calls++ == 0)
        __atomic_store_n(&turn->state, GCOOKIE_TURN_WORKING, __ATOMIC_RELAXED);
}

void gcookie_turn_leave(struct gcookie_turn *turn) {
    if (--turn->calls == 0)
        __atomic_store_n(&turn->state, GCOOKIE_TURN_DONE, __ATOMIC_RELEASE);
}

int gcookie_turn_event(struct gcookie_turn *turn, uint64_t id, int kind, int64_t value,
                       int64_t detail) {
    void *events = turn->events;
    if (!grow(&events, &turn->event_capacity, turn->event_count, 1, sizeof *turn->events)) {
        turn->lost++;
        return 0;
    }
    turn->events = events;
    turn->events[turn->event_count++] = (struct gcookie_event){(int64_t)id, kind, value, detail};
    turn->message_count += kind == GCOOKIE_MESSAGE;
    turn->closed_count += kind == GCOOKIE_CLOSED;
    return 1;
}

/* Text grows without leaving a copy of it in freed memory. */
static int grow_text(struct gcookie_turn *turn, size_t more) {
    size_t wanted = turn->text_capacity == 0 ? FIRST_TEXT : turn->text_capacity;
    unsigned char *grown;

    if (more <= turn->text_capacity - turn->text_size)
        return 1;
    while (wanted - turn->text_size < more) {
        if (wanted > SIZE_MAX / 2)
            return 0;
        wanted *= 2;
    }
    grown = malloc(wanted);
    if (grown == NULL)
        return 0;
    if (turn->text != NULL) {
        memcpy(grown, turn->text, turn->text_size);
        gnutls_memset(turn->text, 0, turn->text_size);
        free(turn->text);
    }
    turn->text = grown;
    turn->text_capacity = wanted;
    return 1;
}

int gcookie_turn_message(struct gcookie_turn *turn, uint64_t id, size_t size) {
    if (!grow_text(turn, size)) {
        turn->lost++;
        return 0;
    }
    if (!gcookie_turn_event(turn, id, GCOOKIE_MESSAGE, (int64_t)size, (int64_t)turn->text_size))
        return 0;
    if (size > 0)
        memcpy(turn->text + turn->text_size, turn->seat.message, size);
    turn->text_size += size;
    return 1;
}

void gcookie_turn_failure(struct gcookie_turn *turn, const struct gcookie_failure *failure) {
    void *failures = turn->failures;
    if (turn->failure_count < GCOOKIE_FAILURES) {
        if (!grow(&failures, &turn->failure_capacity, turn->failure_count, 1,
                  sizeof *turn->failures)) {
            turn->lost++;
            return;
        }
        turn->failures = failures;
    }
    turn->failures[turn->failure_count++ % GCOOKIE_FAILURES] = *failure;
}

void gcookie_turn_forget(struct gcookie_turn *turn, const union gcookie_address *address) {
    void *forgotten = turn->forgotten;
    if (!grow(&forgotten, &turn->forgotten_capacity, turn->forgotten_count, 1,
              sizeof *turn->forgotten)) {
        turn->lost++;
        return;
    }
    turn->forgotten = forgotten;
    turn->forgotten[turn->forgotten_count++] = *address;
}

void gcookie_turn_collect(struct gcookie_turn *turn, const struct gcookie_path *path, uint64_t id) {
    struct gcookie_seat *seat = &turn->seat;
    void *outgoing;

    if (path == NULL)
        seat->out_size = turn->collected;
    while (turn->collected < seat->out_size) {
        uint32_t size;
        memcpy(&size, seat->out + turn->collected, sizeof size);
        turn->collected += sizeof size;
        outgoing = turn->outgoing;
        if (grow(&outgoing, &turn->outgoing_capacity, turn->outgoing_count, 1,
                 sizeof *turn->outgoing)) {
            turn->outgoing = outgoing;
            turn->outgoing[turn->outgoing_count++] =
                (struct gcookie_outgoing){*path, id, turn->collected, size};
        } else {
            turn->lost++;
        }
        turn->collected += size;
    }
}

void gcookie_turn_sent(struct gcookie_turn *turn) {
    turn->outgoing_count = 0;
    turn->collected = turn->seat.out_size = 0;
}

int gcookie_turn_hold_wire(const struct gcookie_turn *turn, size_t at, struct gcookie_wire **box) {
    *box = wire_of(turn, at);
    if (*box == NULL)
        return 0;
    gcookie_wire_hold(*box);
    return 1;
}
