/* What the files of the preloaded library share: hooks.c stands in front of libgnutls, keys.c has
 * the keys of a fleet, record.c notes calls, settings.c takes over what `run` hands on.
 *
 * A server may close every descriptor, change its user and its root, fork, and enter a sandbox that
 * allows no system call but read and write. So after its start the library holds no descriptor,
 * runs no thread and makes no system call. All that it has to tell goes into memory, and a process
 * of its own writes it to files (cli/writer.py). */
#ifndef GCOOKIE_PRELOAD_H
#define GCOOKIE_PRELOAD_H

#include "counters.h"
#include "gate.h"

#include <stdalign.h>
#include <sys/types.h>

#define GCOOKIE_KEY_MATERIAL_SIZE 32

/* A record of a call takes units of the ring; each begins with a tag. cli/writer.py reads them. */
#define GCOOKIE_UNIT_SIZE 512u
#define GCOOKIE_UNIT_PAYLOAD (GCOOKIE_UNIT_SIZE - 8u)
#define GCOOKIE_MOST_UNITS 160u /* of one record: 80 KiB; a UDP datagram has 64 at most */

enum {
    GCOOKIE_FOR_CHILDREN = 1, /* programs that the server starts are to find the settings too */
    GCOOKIE_HAS_KEYS = 2, /* key_material is that of a fleet; else the server's own key is used */
};

/* Memory that `run` makes and all processes of the server share; then come the units of the ring.
 * cli/run.py and cli/writer.py name the same places. */
struct gcookie_shared {
    char magic[16];
    uint32_t flags;
    uint32_t unit_count; /* a power of 2; 0: nothing is recorded */
    double period;       /* seconds */
    unsigned char key_material[GCOOKIE_KEY_MATERIAL_SIZE];
    uint32_t attached; /* 1 once the library has found it */

    alignas(128) struct gcookie_counters counters;
    uint64_t left_alone; /* calls that were passed on as they came */

    alignas(512) uint64_t head; /* the next unit to be taken; only ever counts up */
    alignas(64) uint64_t tail;  /* the next unit to be read; the writer alone sets it */
    alignas(64) uint64_t lost;  /* records that found no room */

    alignas(4096) unsigned char units[];
};

_Static_assert(offsetof(struct gcookie_shared, period) == 24, "cli/run.py");
_Static_assert(offsetof(struct gcookie_shared, key_material) == 32, "cli/run.py");
_Static_assert(offsetof(struct gcookie_shared, attached) == 64, "cli/writer.py");
_Static_assert(offsetof(struct gcookie_shared, counters) == 128, "cli/writer.py");
_Static_assert(offsetof(struct gcookie_shared, left_alone) == 128 + 8 * 19, "cli/writer.py");
_Static_assert(offsetof(struct gcookie_shared, head) == 512, "cli/writer.py");
_Static_assert(offsetof(struct gcookie_shared, tail) == 576, "cli/writer.py");
_Static_assert(offsetof(struct gcookie_shared, lost) == 640, "cli/writer.py");
_Static_assert(offsetof(struct gcookie_shared, units) == 4096, "cli/writer.py");

typedef int gcookie_verify_function(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                                    void *message, size_t message_size,
                                    gnutls_dtls_prestate_st *prestate);
typedef int gcookie_send_function(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                                  gnutls_dtls_prestate_st *prestate, gnutls_transport_ptr_t ptr,
                                  gnutls_push_func push);
typedef int gcookie_hmac_function(gnutls_mac_algorithm_t algorithm, const void *key,
                                  size_t key_size, const void *text, size_t size, void *digest);

/* The functions of libgnutls; NULL in a program that has not loaded it. */
struct gcookie_real {
    gcookie_verify_function *verify;
    gcookie_send_function *send;
    gcookie_hmac_function *hmac;
};
extern struct gcookie_real gcookie_real;

/* Never NULL: memory of this process alone, where `run` has handed over none. */
extern struct gcookie_shared *gcookie_shared;

/* settings.c: looks for libgnutls, once more where it was not there at the start. Returns whether
 * gcookie_real has all its functions. */
int gcookie_find_real(void);

/* keys.c: the keys of a period, the present one's first. */
struct gcookie_ring {
    int64_t number; /* of the period */
    int is_filled;
    unsigned char keys[2][GCOOKIE_SIZE];
};

/* Keys from now on follow from this material, a new one every `period` seconds. */
void gcookie_use_keys(const unsigned char material[GCOOKIE_KEY_MATERIAL_SIZE], double period);

/* The keys of this moment; NULL where the server's own key is to be used. */
const struct gcookie_ring *gcookie_ring_now(void);

/* record.c */
static inline int gcookie_is_recording(void) {
    return gcookie_shared->unit_count > 0;
}

void gcookie_record_verify(const gnutls_datum_t *key, const void *client_data,
                           size_t client_data_size, const void *message, size_t message_size,
                           const gnutls_dtls_prestate_st *before, int result,
                           const gnutls_dtls_prestate_st *after);
void gcookie_record_send(const gnutls_datum_t *key, const void *client_data,
                         size_t client_data_size, const gnutls_dtls_prestate_st *before, int result,
                         ssize_t pushed, const unsigned char *reply, size_t reply_size);

#endif
