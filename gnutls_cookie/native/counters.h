/* What became of datagrams, counted; shared by all threads and loops that use one gate. */
#ifndef GNUTLS_COOKIE_COUNTERS_H
#define GNUTLS_COOKIE_COUNTERS_H

#include "gate.h"

struct gcookie_counters {
    uint64_t discarded[GCOOKIE_INTERNAL + 1]; /* by enum gcookie_reason */
    uint64_t challenged;                      /* HelloVerifyRequests made */
    uint64_t presented;                       /* of these: for a hello that carried a cookie */
    uint64_t verified[2];                     /* by key_age */
};

static inline void gcookie_add(uint64_t *counter, uint64_t amount) {
    __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

static inline void gcookie_count(struct gcookie_counters *counters,
                                 const struct gcookie_verdict *verdict) {
    if (verdict->kind == GCOOKIE_CHALLENGE) {
        gcookie_add(&counters->challenged, 1);
        if (verdict->presented)
            gcookie_add(&counters->presented, 1);
    } else if (verdict->kind == GCOOKIE_VERIFIED) {
        gcookie_add(&counters->verified[verdict->key_age == 0 ? 0 : 1], 1);
    } else if (verdict->reason >= 0 && verdict->reason <= GCOOKIE_INTERNAL) {
        gcookie_add(&counters->discarded[verdict->reason], 1);
    }
}

/* gcookie_gate, counted: for callers that hand over one datagram at a time. Returns the verdict's
 * kind.
 */
static inline int gcookie_gate_counted(const struct gcookie_keys *keys, const void *client_data,
                                       size_t client_data_size, const uint8_t *datagram,
                                       size_t size, struct gcookie_verdict *out,
                                       struct gcookie_counters *counters) {
    gcookie_gate(keys, client_data, client_data_size, datagram, size, out);
    gcookie_count(counters, out);
    return out->kind;
}

/* What is left of keys whose last user is done. */
static inline void gcookie_keys_wipe(struct gcookie_keys *keys) {
    gnutls_memset(keys, 0, sizeof *keys);
}

#endif
