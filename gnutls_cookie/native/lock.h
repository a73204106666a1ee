/* Locks that are owned by a number, not by a place in the code, and that survive fork(). */
#ifndef GNUTLS_COOKIE_LOCK_H
#define GNUTLS_COOKIE_LOCK_H

#include <stdint.h>

struct gc_lock;

struct gc_lock *gc_lock_new(void); /* NULL: no memory */
void gc_lock_free(struct gc_lock *lock);

/* A number above 0 that no other call in this process has given: the owner of a lock to be. */
uint64_t gc_lock_token(void);

/* Makes `token` the owner, waiting for at most wait_ms. 1: it is; 0: another one still is;
 * -EDEADLK: the calling thread holds the lock already, and would wait for itself; -EINVAL: token is
 * 0. */
int gc_lock_take(struct gc_lock *lock, uint64_t token, unsigned int wait_ms);

/* Frees the lock where `token` is its owner, else does nothing. */
void gc_lock_give(struct gc_lock *lock, uint64_t token);

/* How often gc_lock_notify was called. Who holds the lock reads it, gives the lock, and calls
 * gc_lock_await, which waits for at most wait_ms until the number is another one: 1, or 0. */
uint64_t gc_lock_news(struct gc_lock *lock);
int gc_lock_await(struct gc_lock *lock, uint64_t news, unsigned int wait_ms);
void gc_lock_notify(struct gc_lock *lock);

#endif
