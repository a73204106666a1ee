/* libgnutls' debug messages in a ring. */
#include "debug.h"

#include <gnutls/gnutls.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINES = 1024, TRIES = 10000 };

/* Made once and never freed: a thread may be about to write. */
static struct gcookie_debug_line *lines;
static size_t first, count;
static uint64_t lost;
static int busy;

/* 0: somebody else has had it for very long, a thread that sleeps. */
static int enter(void) {
    for (int try = 0; try < TRIES; try++) {
        if (__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE) == 0)
            return 1;
        if (try > TRIES / 2)
            sched_yield();
    }
    return 0;
}

static void leave(void) {
    __atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
}

/* gnutls_log_func. */
static void keep(int level, const char *text) {
    struct gcookie_debug_line *line;
    struct timespec now;
    size_t size = strlen(text);

    if (!enter()) {
        __atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
        return;
    }
    if (count == LINES) {
        __atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
    } else {
        line = &lines[(first + count++) % LINES];
        clock_gettime(CLOCK_REALTIME, &now);
        while (size > 0 && text[size - 1] == '\n')
            size--;
        if (size > sizeof line->text)
            size = sizeof line->text;
        line->level = level;
        line->time = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
        line->size = size;
        memcpy(line->text, text, size);
    }
    leave();
}

int gcookie_debug_level(int level) {
    if (lines == NULL && level > 0) {
        struct gcookie_debug_line *made = calloc(LINES, sizeof *made), *none = NULL;
        if (made == NULL)
            return GNUTLS_E_MEMORY_ERROR;
        if (!__atomic_compare_exchange_n(&lines, &none, made, 0, __ATOMIC_ACQ_REL,
                                         __ATOMIC_ACQUIRE))
            free(made);
    }
    if (level > 0)
        gnutls_global_set_log_function(keep);
    gnutls_global_set_log_level(level);
    return 0;
}

int gcookie_debug_take(struct gcookie_debug_line *out) {
    int found = 0;
    if (lines == NULL || !enter())
        return 0;
    if (count > 0) {
        *out = lines[first];
        memset(&lines[first], 0, sizeof lines[first]); /* there may be keys in it */
        first = (first + 1) % LINES;
        count--;
        found = 1;
    }
    leave();
    return found;
}

uint64_t gcookie_debug_lost(void) {
    return __atomic_exchange_n(&lost, 0, __ATOMIC_RELAXED);
}

void gcookie_debug_forget(void) {
    gnutls_global_set_log_level(0);
    count = 0;
    lost = 0;
    leave();
}
