/* A turn of a served socket by whoever waits there, among several threads. */
#ifndef GNUTLS_COOKIE_LEAD_H
#define GNUTLS_COOKIE_LEAD_H

#include "lock.h"
#include "serve.h"

/* gcookie_serve_wait, then gcookie_lock_take, so that `token` is the owner in the turn and
 * afterwards, then gcookie_serve_turn: one call. `now` is the time before. GCOOKIE_SERVE_NONE:
 * nothing came, and no lock was taken. Other numbers are those of the three. */
enum { GCOOKIE_SERVE_NONE = INT32_MIN };

int gcookie_lead(struct gcookie_serve *serve, struct gcookie_lock **lock, uint64_t token, int fd,
                 int out, const struct gcookie_keys *keys, struct gcookie_counters *counters,
                 unsigned int wait_ms, unsigned int work_ms, struct gcookie_turn *turn, double now);

#endif
