/* A turn of a served socket by whoever waits there. */
#include "lead.h"

#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int gcookie_lead(struct gcookie_serve *serve, struct gcookie_lock **lock, uint64_t token, int fd,
                 int out, const struct gcookie_keys *keys, struct gcookie_counters *counters,
                 unsigned int wait_ms, unsigned int work_ms, struct gcookie_turn *turn,
                 double now) {
    const double begun = seconds(); /* the caller's clock may be another one */
    int code =
        gcookie_serve_wait(serve, fd, keys, counters, serve->has_more ? 0 : wait_ms, work_ms);

    if (code < 0)
        return code;
    if (code == 0 && !serve->has_more)
        return GCOOKIE_SERVE_NONE;
    code = gcookie_lock_take(lock, token, GCOOKIE_WAIT_ON);
    if (code < 0)
        return code;
    now += seconds() - begun;
    return gcookie_serve_turn(serve, fd, out, keys, counters, work_ms, turn, now, 0);
}
