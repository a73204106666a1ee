/* A turn of a served socket. */
#include "serve.h"
#include "send.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum {
    MOST_NEW = 16,         /* sessions that begin in a turn: of that many the others wait */
    MOST_TEXT = 256 << 10, /* bytes of messages in a turn, and of what waits to be sent */
    MOST_DUE = 256,        /* timers: the others are still due, and wait for the next turn */
    SENT_AT_ONCE = 64,     /* datagrams: more would not stay in the cache */
    NS_A_MS = 1000000,
};

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 * NS_A_MS + now.tv_nsec;
}

static int enter(struct gcookie_serve *serve) {
    return __atomic_exchange_n(&serve->busy, 1, __ATOMIC_ACQUIRE) == 0 ? 0 : -EBUSY;
}

static void leave(struct gcookie_serve *serve) {
    __atomic_store_n(&serve->busy, 0, __ATOMIC_RELEASE);
}

/* What the sessions have said goes out. */
static void flush(struct gcookie_turn *turn, int out) {
    struct gcookie_datagram datagrams[SENT_AT_ONCE];
    size_t at = 0;
    while (at < turn->outgoing_count) {
        size_t count = 0;
        for (; count < SENT_AT_ONCE && at < turn->outgoing_count; at++, count++) {
            const struct gcookie_outgoing *one = &turn->outgoing[at];
            datagrams[count] =
                (struct gcookie_datagram){&one->path, turn->seat.out + one->at, one->size};
        }
        turn->send_errors += gcookie_send_each(out, datagrams, count);
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
    memset(serve->done, 0, sizeof serve->done);
    number = gcookie_udp_run(serve->udp, fd, keys, counters, GCOOKIE_SERVE_BATCH, wait_ms, work_ms);
    if (number > 0)
        serve->arrived = (unsigned int)number;
    return number < 0 ? number : 0;
}

int gcookie_serve_wait(struct gcookie_serve *serve, int fd, const struct gcookie_keys *keys,
                       struct gcookie_counters *counters, unsigned int wait_ms,
                       unsigned int work_ms) {
    int code;
    if (enter(serve) != 0)
        return -EBUSY;
    code = receive(serve, fd, keys, counters, wait_ms, work_ms);
    if (code == 0 && serve->taken < serve->arrived)
        code = 1;
    leave(serve);
    return code;
}

/* One arrival. 1: a session began. */
static int give(struct gcookie_serve *serve, const struct gcookie_arrival *arrival,
                struct gcookie_counters *counters, struct gcookie_turn *turn, double now,
                uintptr_t handle) {
    gnutls_dtls_prestate_st prestate = arrival->prestate;
    struct gcookie_path path;
    const uint64_t before = serve->server->counters.handshaking + serve->server->counters.sessions;

    gcookie_udp_path(serve->udp, arrival, &path);
    if (!arrival->verified && gcookie_server_has(serve->server, &path.address) == 0) {
        gcookie_add(&counters->discarded[arrival->reason], 1);
        return 0;
    }
    gcookie_udp_count_arrival(serve->udp);
    (void)gcookie_server_receive(serve->server, turn, &path, arrival->datagram, arrival->size,
                                 arrival->verified ? &prestate : NULL, now, handle);
    return arrival->verified &&
           serve->server->counters.handshaking + serve->server->counters.sessions > before;
}

/* The peers that are connected come first; then the others, in their order. 1: some are left. */
static int work(struct gcookie_serve *serve, struct gcookie_counters *counters,
                struct gcookie_turn *turn, double now, uintptr_t handle, unsigned int *begun) {
    const struct gcookie_arrival *arrivals = gcookie_udp_arrivals(serve->udp);

    for (unsigned int at = serve->taken; at < serve->arrived; at++) {
        struct gcookie_path path;
        if (arrivals[at].verified || serve->done[at])
            continue;
        gcookie_udp_path(serve->udp, &arrivals[at], &path);
        if (gcookie_server_has(serve->server, &path.address) == 1) {
            serve->done[at] = 1;
            gcookie_udp_count_arrival(serve->udp);
            (void)gcookie_server_receive(serve->server, turn, &path, arrivals[at].datagram,
                                         arrivals[at].size, NULL, now, handle);
        }
    }
    while (serve->taken < serve->arrived && *begun < MOST_NEW) {
        const unsigned int at = serve->taken++;
        if (!serve->done[at])
            *begun += (unsigned int)give(serve, &arrivals[at], counters, turn, now, handle);
    }
    return serve->taken < serve->arrived;
}

int gcookie_serve_turn(struct gcookie_serve *serve, int fd, int out,
                       const struct gcookie_keys *keys, struct gcookie_counters *counters,
                       unsigned int work_ms, struct gcookie_turn *turn, double now,
                       uintptr_t handle) {
    const int64_t end = monotonic_ns() + (int64_t)work_ms * NS_A_MS;
    unsigned int begun = 0;
    int code, is_full, are_left;

    if (enter(serve) != 0)
        return -EBUSY;
    gcookie_turn_enter(turn);
    do {
        code = receive(serve, fd, keys, counters, 0, work_ms);
        if (code < 0)
            break;
        is_full = serve->arrived == GCOOKIE_SERVE_BATCH;
        are_left = work(serve, counters, turn, now, handle, &begun);
        flush(turn, out);
    } while (is_full && !are_left && turn->text_size < MOST_TEXT && monotonic_ns() < end);
    serve->server->most_due = MOST_DUE;
    if (code == 0)
        code = gcookie_server_handle_timeout(serve->server, turn, now, handle);
    flush(turn, out);
    if (code == 0)
        code = serve->taken < serve->arrived;
    gcookie_turn_leave(turn);
    leave(serve);
    return code;
}

int gcookie_serve_send(struct gcookie_serve *serve, int out, struct gcookie_turn *turn,
                       const uint64_t *ids, const uint32_t *sizes, size_t count,
                       const unsigned char *data, size_t data_size, double now) {
    for (size_t at = 0; at < count && sizes[at] <= data_size; at++) {
        const ssize_t code =
            gcookie_server_send(serve->server, turn, ids[at], data, sizes[at], now);
        if (code == GCOOKIE_BUSY && at == 0)
            return GCOOKIE_BUSY;
        turn->lost += code < 0;
        data += sizes[at];
        data_size -= sizes[at];
        if (turn->outgoing_count >= SENT_AT_ONCE || turn->seat.out_size > MOST_TEXT)
            flush(turn, out);
    }
    flush(turn, out);
    return 0;
}
