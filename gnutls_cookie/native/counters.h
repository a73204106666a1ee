/* What became of datagrams, counted; shared by all threads and loops that use one gate. */
#ifndef GNUTLS_COOKIE_COUNTERS_H
#define GNUTLS_COOKIE_COUNTERS_H

#include "gate.h"

struct gc_counters {
    uint64_t discarded[GC_INTERNAL + 1]; /* by enum gc_reason */
    uint64_t challenged;                 /* HelloVerifyRequests made */
    uint64_t presented;                  /* of these: for a hello that carried a cookie */
    uint64_t verified[2];                /* by key_age */
};

static inline void gc_add(uint64_t *counter, uint64_t amount) {
    __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

static inline void gc_count(struct gc_counters *counters, const struct gc_verdict *verdict) {
    if (verdict->kind == GC_CHALLENGE) {
        gc_add(&counters->challenged, 1);
        if (verdict->presented)
            gc_add(&counters->presented, 1);
    } else if (verdict->kind == GC_VERIFIED) {
        gc_add(&counters->verified[verdict->key_age == 0 ? 0 : 1], 1);
    } else if (verdict->reason >= 0 && verdict->reason <= GC_INTERNAL) {
        gc_add(&counters->discarded[verdict->reason], 1);
    }
}

/* gc_gate, counted: for callers that hand over one datagram at a time. Returns the verdict's kind.
 */
static inline int gc_gate_counted(const struct gc_keys *keys, const void *client_data,
                                  size_t client_data_size, const uint8_t *datagram, size_t size,
                                  struct gc_verdict *out, struct gc_counters *counters) {
    gc_gate(keys, client_data, client_data_size, datagram, size, out);
    gc_count(counters, out);
    return out->kind;
}

#endif
