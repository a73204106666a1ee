/* A turn of a served socket. */
#include "serve.h"
#include "send.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MOST_TEXT = 256 << 10, /* bytes of messages in a turn, and of what waits to be sent */
    DUE_AT_ONCE = 8,       /* timers, before the clock is looked at */
    SENT_AT_ONCE = 64,     /* datagrams: more would not stay in the cache */
    NS_A_MS = 1000000,
};

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 * NS_A_MS + now.tv_nsec;
}

/* 0: the call has it to itself. */
static int enter(struct gcookie_serve *serve) {
    if (__atomic_exchange_n(&serve->busy, 1, __ATOMIC_ACQUIRE) != 0)
        return -EBUSY;
    serve->udp = *serve->udp_box;
    serve->server = *serve->server_box;
    if (serve->udp != NULL && serve->server != NULL)
        return 0;
    __atomic_store_n(&serve->busy, 0, __ATOMIC_RELEASE);
    return -EBADF;
}

static void leave(struct gcookie_serve *serve) {
    __atomic_store_n(&serve->busy, 0, __ATOMIC_RELEASE);
}

/* What the sessions have said goes out. */
static void flush(struct gcookie_serve *serve, struct gcookie_turn *turn, int out) {
    struct gcookie_datagram datagrams[SENT_AT_ONCE];
    size_t at = 0;
    while (at < turn->outgoing_count) {
        size_t count = 0;
        for (; count < SENT_AT_ONCE && at < turn->outgoing_count; at++, count++) {
            const struct gcookie_outgoing *one = &turn->outgoing[at];
            datagrams[count] =
                (struct gcookie_datagram){&one->path, turn->seat.out + one->at, one->size};
        }
        const unsigned int lost = gcookie_send_each(out, datagrams, count);
        if (lost > 0)
            gcookie_add(&serve->send_errors, lost);
    }
    gcookie_turn_sent(turn);
}

/* The next batch, where the last one is done with. */
static int receive(struct gcookie_serve *serve, int fd, const struct gcookie_keys *keys,
                   struct gcookie_counters *counters, unsigned int wait_ms, unsigned int work_ms) {
    int number;
    if (serve->taken < serve->arrived)
        return 0;
    serve->taken = serve->arrived = 0;
    number = gcookie_udp_run(serve->udp, fd, keys, counters, GCOOKIE_SERVE_BATCH, wait_ms, work_ms);
    if (number > 0)
        serve->arrived = (unsigned int)number;
    return number < 0 ? number : 0;
}

int gcookie_serve_wait(struct gcookie_serve *serve, int fd, const struct gcookie_keys *keys,
                       struct gcookie_counters *counters, unsigned int wait_ms,
                       unsigned int work_ms) {
    int code = enter(serve);
    if (code != 0)
        return code;
    code = receive(serve, fd, keys, counters, wait_ms, work_ms);
    if (code == 0 && serve->taken < serve->arrived)
        code = serve->has_more = 1;
    leave(serve);
    return code;
}

/* A copy of an arrival waits; 0: it does not. */
static int put_off(struct gcookie_serve *serve, const struct gcookie_arrival *arrival,
                   const struct gcookie_path *path) {
    if (arrival->verified)
        return gcookie_waiting_put(&serve->waiting, path, &arrival->prestate, arrival->datagram,
                                   arrival->size);
    return gcookie_waiting_put(&serve->handshakes, path, NULL, arrival->datagram, arrival->size);
}

/* A batch. What comes from peers that are connected is done at once. A handshake may cost as much
 * as a thousand messages, so what begins one waits, and what goes on with one. */
static void work(struct gcookie_serve *serve, struct gcookie_counters *counters,
                 struct gcookie_turn *turn, double now, uintptr_t handle) {
    const struct gcookie_arrival *arrivals = gcookie_udp_arrivals(serve->udp);
    struct gcookie_path path;

    while (serve->taken < serve->arrived) {
        const struct gcookie_arrival *const one = &arrivals[serve->taken++];
        int found;
        gcookie_udp_path(serve->udp, one, &path);
        found = one->verified
                    ? 0
                    : gcookie_server_receive_connected(serve->server, turn, &path, one->datagram,
                                                       one->size, now, handle);
        if (!one->verified && found == 0) {
            gcookie_add(&counters->discarded[one->reason], 1);
            continue;
        }
        gcookie_udp_count_arrival(serve->udp);
        if (found != GCOOKIE_CONNECTED_ALONE && !put_off(serve, one, &path))
            gcookie_server_refuse(serve->server, GCOOKIE_REFUSED_BUSY);
    }
}

/* Those that wait, for `work_ns`. At least one, so that all have their turn some time. */
static void go_on(struct gcookie_serve *serve, struct gcookie_waiting *waiting,
                  struct gcookie_turn *turn, int64_t work_ns, double now, uintptr_t handle) {
    const int64_t end = waiting->count > 0 ? monotonic_ns() + work_ns : 0;
    struct gcookie_waiter *one;
    while ((one = gcookie_waiting_take(waiting)) != NULL) {
        (void)gcookie_server_receive(serve->server, turn, &one->path, one->datagram, one->size,
                                     one->is_hello ? &one->prestate : NULL, now, handle);
        free(one);
        if (monotonic_ns() >= end)
            break;
    }
}

/* Whether what else a batch may bring can wait, whatever comes. */
static int has_room(const struct gcookie_waiting *waiting) {
    return waiting->count + GCOOKIE_SERVE_BATCH <= GCOOKIE_MOST_WAITING_OF_PREFIX;
}

int gcookie_serve_turn(struct gcookie_serve *serve, int fd, int out,
                       const struct gcookie_keys *keys, struct gcookie_counters *counters,
                       unsigned int work_ms, struct gcookie_turn *turn, double now,
                       uintptr_t handle) {
    const int64_t work_ns = (int64_t)work_ms * NS_A_MS;
    int64_t end = monotonic_ns() + work_ns;
    uint64_t refused;
    double left = -1;
    int code = enter(serve), is_full;

    if (code != 0)
        return code;
    refused = serve->server->counters.refused;
    gcookie_turn_enter(turn);
    do {
        code = receive(serve, fd, keys, counters, 0, work_ms);
        if (code < 0)
            break;
        is_full = serve->arrived == GCOOKIE_SERVE_BATCH;
        work(serve, counters, turn, now, handle);
        flush(serve, turn, out);
        /* No more than can wait is read, as long as it can lie in the socket. */
    } while (is_full && turn->text_size < MOST_TEXT && has_room(&serve->waiting) &&
             has_room(&serve->handshakes) && monotonic_ns() < end);
    if (code == 0) {
        go_on(serve, &serve->handshakes, turn, work_ns, now, handle);
        go_on(serve, &serve->waiting, turn, work_ns, now, handle);
        flush(serve, turn, out);
    }
    serve->server->most_due = DUE_AT_ONCE;
    end = 0;
    while (code == 0) {
        code = gcookie_server_handle_timeout(serve->server, turn, now, handle);
        left = gcookie_server_timeout(serve->server, now);
        if (left != 0 || (end != 0 && monotonic_ns() >= end))
            break;
        end = end != 0 ? end : monotonic_ns() + work_ns;
    }
    flush(serve, turn, out);
    serve->has_more =
        serve->taken < serve->arrived || serve->waiting.count > 0 || serve->handshakes.count > 0;
    serve->due = serve->has_more ? -INFINITY : left < 0 ? INFINITY : now + left;
    if (code >= 0 && (turn->event_count != turn->message_count || turn->outgoing_count > 0 ||
                      turn->forgotten_count > 0 || turn->failure_count > 0 ||
                      serve->server->counters.refused != refused))
        code |= GCOOKIE_SERVE_NEWS;
    if (code >= 0 && serve->server->counters.handshaking > 0)
        code |= GCOOKIE_SERVE_ASKS;
    gcookie_turn_leave(turn);
    leave(serve);
    return code;
}

void gcookie_serve_clear(struct gcookie_serve *serve) {
    gcookie_waiting_clear(&serve->waiting);
    gcookie_waiting_clear(&serve->handshakes);
}

int gcookie_serve_send(struct gcookie_serve *serve, int out, struct gcookie_turn *turn,
                       const uint64_t *ids, const uint32_t *sizes, size_t count,
                       const unsigned char *data, size_t data_size, double now) {
    struct gcookie_server *const server = *serve->server_box;

    if (server == NULL)
        return -EBADF;
    for (size_t at = 0; at < count && sizes[at] <= data_size; at++) {
        const ssize_t code = gcookie_server_send(server, turn, ids[at], data, sizes[at], now);
        if (code == GCOOKIE_BUSY && at == 0)
            return GCOOKIE_BUSY;
        turn->lost += code < 0;
        data += sizes[at];
        data_size -= sizes[at];
        if (turn->outgoing_count >= SENT_AT_ONCE || turn->seat.out_size > MOST_TEXT)
            flush(serve, turn, out);
    }
    flush(serve, turn, out);
    gcookie_turn_reset(turn);
    return 0;
}

int gcookie_serve_send_one(struct gcookie_serve *serve, int out, struct gcookie_turn *turn,
                           uint64_t id, const unsigned char *data, size_t size, double now) {
    const uint32_t only = (uint32_t)size;
    if (size > UINT32_MAX)
        return -EMSGSIZE;
    return gcookie_serve_send(serve, out, turn, &id, &only, 1, data, size, now);
}
