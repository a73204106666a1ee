/* Locks that are owned by a number, not by a place in the code, and that survive fork(). */
#ifndef GNUTLS_COOKIE_LOCK_H
#define GNUTLS_COOKIE_LOCK_H

#include <stdint.h>

struct gcookie_lock;

/* Each function is given a box with the lock, which is NULL once the lock is freed: those of a
 * freed lock do nothing. */

int gcookie_lock_new(struct gcookie_lock **box); /* -ENOMEM: no memory */
void gcookie_lock_free(struct gcookie_lock **box);

/* A number above 0 that no other call in this process has given: the owner of a lock to be. */
uint64_t gcookie_lock_token(void);

/* Makes `token` the owner, waiting for at most wait_ms. 1: it is; 0: another one still is;
 * -EBADF: the lock is freed; -EDEADLK: the calling thread holds the lock already, and would wait
 * for itself; -EINVAL: token is 0. */
int gcookie_lock_take(struct gcookie_lock **box, uint64_t token, unsigned int wait_ms);

/* Frees the lock where `token` is its owner, else does nothing. */
void gcookie_lock_give(struct gcookie_lock **box, uint64_t token);

/* How often gcookie_lock_notify was called. Who holds the lock reads it, gives the lock, and calls
 * gcookie_lock_await, which waits for at most wait_ms until the number is another one, and returns
 * it. GCOOKIE_WAIT_ON: without an end, and without a timer. */
#define GCOOKIE_WAIT_ON UINT32_MAX
uint64_t gcookie_lock_news(struct gcookie_lock **box);
uint64_t gcookie_lock_await(struct gcookie_lock **box, uint64_t news, unsigned int wait_ms);
void gcookie_lock_notify(struct gcookie_lock **box);

/* gcookie_lock_notify of `first`, where that is not NULL, and gcookie_lock_await. */
uint64_t gcookie_lock_notify_and_await(struct gcookie_lock **first, struct gcookie_lock **box,
                                       uint64_t news, unsigned int wait_ms);

#endif
