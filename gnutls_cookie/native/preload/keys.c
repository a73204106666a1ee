/* Keys of a fleet, as keys.py derives them: the same on every node that has the secret. What is
 * here is not the secret but what HKDF extracts from it (RFC 5869 2.2); `run` does that. */
#include "preload.h"

#include <gnutls/crypto.h>
#include <string.h>
#include <time.h>

static unsigned char key_material[GCOOKIE_KEY_MATERIAL_SIZE];
static double period; /* seconds; 0: no keys of a fleet */

/* Each thread derives the keys of a period once, which needs no lock. */
static __thread struct gcookie_ring ring;

void gcookie_use_keys(const unsigned char material[GCOOKIE_KEY_MATERIAL_SIZE], double seconds) {
    memcpy(key_material, material, sizeof key_material);
    period = seconds;
}

/* RFC 5869 2.3, its first block. */
static int derive(int64_t number, unsigned char key[GCOOKIE_SIZE]) {
    static const unsigned char label[] = "DTLS cookie key";
    enum { LABEL_SIZE = sizeof label - 1 };
    unsigned char made[32], info[LABEL_SIZE + 8 + 1];
    memcpy(info, label, LABEL_SIZE);
    for (unsigned int at = 0; at < 8; at++) {
        info[LABEL_SIZE + at] = (unsigned char)((uint64_t)number >> (56 - 8 * at));
    }
    info[LABEL_SIZE + 8] = 1;
    if (gcookie_real.hmac(GNUTLS_MAC_SHA256, key_material, sizeof key_material, info, sizeof info,
                          made) < 0) {
        return 0;
    }
    memcpy(key, made, GCOOKIE_SIZE);
    return 1;
}

/* The coarse clock lags by a tick of the kernel, 10 ms at most. It is read from memory whatever the
 * kernel's source of time is, where CLOCK_REALTIME may need a system call. */
const struct gcookie_ring *gcookie_ring_now(void) {
    if (period <= 0 || gcookie_real.hmac == NULL) {
        return NULL;
    }
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    const double periods = ((double)now.tv_sec + (double)now.tv_nsec * 1e-9) / period;
    const int64_t number = (int64_t)periods; /* the floor, as keys.py has it: it is positive */
    if (!ring.is_filled || ring.number != number) {
        ring.is_filled = 0;
        if (!derive(number, ring.keys[0]) || !derive(number - 1, ring.keys[1])) {
            return NULL;
        }
        ring.number = number;
        ring.is_filled = 1;
    }
    return &ring;
}
