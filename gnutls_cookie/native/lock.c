/* One mutex guards the state of all locks. It is held for a few instructions at a time, and across
 * fork(): in the child every lock is consistent, and those of threads that the child does not have
 * are released. */
#include "lock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#if defined __linux__ && UINTPTR_MAX > UINT32_MAX
#define HAS_FUTEX 1 /* futex(2), with a struct timespec as the kernel has it */
#include <sys/syscall.h>
#include <unistd.h>

/* As linux/futex.h has them, which musl comes without. */
enum { FUTEX_WAKE_PRIVATE = 1 | 128, FUTEX_WAIT_BITSET_PRIVATE = 9 | 128 };
#define FUTEX_BITSET_MATCH_ANY UINT32_MAX
#endif

struct gcookie_lock {
    uint64_t owner;   /* 0: free */
    pthread_t thread; /* the owner's; the thread that forks keeps its id in the child */
    uint64_t news;
    pthread_cond_t freed;
#ifdef HAS_FUTEX
    uint32_t waiting; /* threads in gcookie_lock_await */
#else
    pthread_cond_t changed;
#endif
    struct gcookie_lock *next;
    struct gcookie_lock *previous;
};

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static struct gcookie_lock *locks;

/* --- fork ------------------------------------------------------------------------------------- */

static int make_conditions(struct gcookie_lock *lock);

static void before_fork(void) {
    pthread_mutex_lock(&guard);
}

static void in_parent(void) {
    pthread_mutex_unlock(&guard);
}

static void in_child(void) {
    for (struct gcookie_lock *lock = locks; lock != NULL; lock = lock->next) {
        if (lock->owner != 0 && !pthread_equal(lock->thread, pthread_self()))
            lock->owner = 0;
        make_conditions(lock); /* the old ones count threads that the child does not have */
#ifdef HAS_FUTEX
        lock->waiting = 0;
#endif
    }
    pthread_mutex_unlock(&guard);
}

static int fork_error;

static void watch_forks(void) {
    fork_error = pthread_atfork(before_fork, in_parent, in_child);
}

/* --- life ------------------------------------------------------------------------------------- */

static int make_conditions(struct gcookie_lock *lock) {
    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);

    if (error != 0)
        return error;
#ifndef __APPLE__
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    error = pthread_cond_init(&lock->freed, &attributes);
#ifndef HAS_FUTEX
    if (error == 0)
        error = pthread_cond_init(&lock->changed, &attributes);
#endif
    pthread_condattr_destroy(&attributes);
    return error;
}

int gcookie_lock_new(struct gcookie_lock **box) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct gcookie_lock *lock = calloc(1, sizeof *lock);

    pthread_once(&once, watch_forks);
    if (lock == NULL || fork_error != 0 || make_conditions(lock) != 0) {
        free(lock);
        return -ENOMEM;
    }
    pthread_mutex_lock(&guard);
    lock->next = locks;
    if (locks != NULL)
        locks->previous = lock;
    locks = lock;
    pthread_mutex_unlock(&guard);
    *box = lock;
    return 0;
}

void gcookie_lock_free(struct gcookie_lock **box) {
    struct gcookie_lock *lock = *box;

    if (lock == NULL)
        return;
    pthread_mutex_lock(&guard);
    *box = NULL;
    if (lock->next != NULL)
        lock->next->previous = lock->previous;
    if (lock->previous != NULL)
        lock->previous->next = lock->next;
    else
        locks = lock->next;
    pthread_mutex_unlock(&guard);
    pthread_cond_destroy(&lock->freed);
#ifndef HAS_FUTEX
    pthread_cond_destroy(&lock->changed);
#endif
    free(lock);
}

uint64_t gcookie_lock_token(void) {
    static uint64_t last;
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static struct timespec now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

static struct timespec later(unsigned int milliseconds) {
    struct timespec time = now();
    time.tv_sec += (time_t)(milliseconds / 1000);
    time.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000;
    }
    return time;
}

/* 0, or ETIMEDOUT. The caller holds the guard, which is released during the wait. */
static int wait_until(pthread_cond_t *condition, const struct timespec *end) {
#ifdef __APPLE__
    struct timespec left, at = now();
    left.tv_sec = end->tv_sec - at.tv_sec;
    left.tv_nsec = end->tv_nsec - at.tv_nsec;
    if (left.tv_nsec < 0) {
        left.tv_sec--;
        left.tv_nsec += 1000000000;
    }
    if (left.tv_sec < 0)
        return ETIMEDOUT;
    return pthread_cond_timedwait_relative_np(condition, &guard, &left);
#else
    return pthread_cond_timedwait(condition, &guard, end);
#endif
}

int gcookie_lock_take(struct gcookie_lock **box, uint64_t token, unsigned int wait_ms) {
    const struct timespec end = later(wait_ms);
    struct gcookie_lock *lock = *box;
    int result = 1;

    if (lock == NULL)
        return -EBADF;
    if (token == 0)
        return -EINVAL;
    pthread_mutex_lock(&guard);
    if (lock->owner != 0 && pthread_equal(lock->thread, pthread_self()))
        result = -EDEADLK;
    while (result == 1 && lock->owner != 0) {
        if (wait_ms == 0 || wait_until(&lock->freed, &end) != 0)
            result = lock->owner == 0;
    }
    if (result == 1) {
        lock->owner = token;
        lock->thread = pthread_self();
    }
    pthread_mutex_unlock(&guard);
    return result;
}

void gcookie_lock_give(struct gcookie_lock **box, uint64_t token) {
    struct gcookie_lock *lock = *box;

    if (lock == NULL)
        return;
    pthread_mutex_lock(&guard);
    if (token != 0 && lock->owner == token) {
        lock->owner = 0;
        pthread_cond_signal(&lock->freed);
    }
    pthread_mutex_unlock(&guard);
}

/* --- news ------------------------------------------------------------------------------------- */

#ifdef HAS_FUTEX

/* A condition would wake without a bound, and its mutex for nobody: each time the kernel looks
 * through all threads whose futexes have one hash. Of a thousand threads these are some dozens. */

/* The kernel compares the lower half. */
static uint32_t *word_of(struct gcookie_lock *lock) {
    return (uint32_t *)&lock->news + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

uint64_t gcookie_lock_news(struct gcookie_lock **box) {
    struct gcookie_lock *lock = *box;
    return lock == NULL ? 0 : __atomic_load_n(&lock->news, __ATOMIC_SEQ_CST);
}

uint64_t gcookie_lock_await(struct gcookie_lock **box, uint64_t news, unsigned int wait_ms) {
    const int ends = wait_ms != GCOOKIE_WAIT_ON;
    struct gcookie_lock *lock = *box;
    struct timespec end;

    if (lock == NULL)
        return news + 1;
    if (ends)
        end = later(wait_ms);
    /* Either its number is seen by who tells, or what was told here. */
    __atomic_add_fetch(&lock->waiting, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&lock->news, __ATOMIC_SEQ_CST) == news) {
        if (syscall(SYS_futex, word_of(lock), FUTEX_WAIT_BITSET_PRIVATE, (uint32_t)news,
                    ends ? &end : NULL, NULL, FUTEX_BITSET_MATCH_ANY) != 0 &&
            errno == ETIMEDOUT)
            break;
    }
    __atomic_sub_fetch(&lock->waiting, 1, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&lock->news, __ATOMIC_SEQ_CST);
}

void gcookie_lock_notify(struct gcookie_lock **box) {
    struct gcookie_lock *lock = *box;
    uint32_t waiting;

    if (lock == NULL)
        return;
    __atomic_add_fetch(&lock->news, 1, __ATOMIC_SEQ_CST);
    waiting = __atomic_load_n(&lock->waiting, __ATOMIC_SEQ_CST);
    if (waiting > 0) /* no more of them: the kernel would look for others */
        syscall(SYS_futex, word_of(lock), FUTEX_WAKE_PRIVATE, waiting, NULL, NULL, 0);
}

#else

uint64_t gcookie_lock_news(struct gcookie_lock **box) {
    struct gcookie_lock *lock = *box;
    uint64_t news;

    if (lock == NULL)
        return 0;
    pthread_mutex_lock(&guard);
    news = lock->news;
    pthread_mutex_unlock(&guard);
    return news;
}

uint64_t gcookie_lock_await(struct gcookie_lock **box, uint64_t news, unsigned int wait_ms) {
    const struct timespec end = later(wait_ms);
    struct gcookie_lock *lock = *box;
    uint64_t told;

    if (lock == NULL)
        return news + 1;
    pthread_mutex_lock(&guard);
    while (lock->news == news && wait_until(&lock->changed, &end) == 0)
        ;
    told = lock->news;
    pthread_mutex_unlock(&guard);
    return told;
}

void gcookie_lock_notify(struct gcookie_lock **box) {
    struct gcookie_lock *lock = *box;

    if (lock == NULL)
        return;
    pthread_mutex_lock(&guard);
    lock->news++;
    pthread_mutex_unlock(&guard);
    /* Afterwards: who wakes takes the guard. The lock is there as long as its caller has the box.
     */
    pthread_cond_broadcast(&lock->changed);
}

#endif

uint64_t gcookie_lock_notify_and_await(struct gcookie_lock **first, struct gcookie_lock **box,
                                       uint64_t news, unsigned int wait_ms) {
    if (first != NULL)
        gcookie_lock_notify(first);
    return gcookie_lock_await(box, news, wait_ms);
}
