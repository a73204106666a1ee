/* SipHash (Aumasson and Bernstein, 2012): a hash with a key, so that nobody outside can choose
 * addresses that share a bucket. */
#ifndef GNUTLS_COOKIE_SIPHASH_H
#define GNUTLS_COOKIE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

enum { GCOOKIE_SIPHASH_KEY_SIZE = 16 }; /* bytes */

static inline uint64_t gcookie_sip_read(const unsigned char *at, size_t size) {
    uint64_t word = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (size == sizeof word) { /* compilers do not find out by themselves */
        __builtin_memcpy(&word, at, sizeof word);
        return word;
    }
#endif
    for (size_t byte = 0; byte < size; byte++) {
        word |= (uint64_t)at[byte] << (8 * byte);
    }
    return word;
}

static inline uint64_t gcookie_sip_turn(uint64_t word, int bits) {
    return word << bits | word >> (64 - bits);
}

static inline void gcookie_sip_rounds(uint64_t v[4], int rounds) {
    for (int round = 0; round < rounds; round++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = gcookie_sip_turn(v[1], 13) ^ v[0];
        v[3] = gcookie_sip_turn(v[3], 16) ^ v[2];
        v[0] = gcookie_sip_turn(v[0], 32) + v[3];
        v[2] += v[1];
        v[3] = gcookie_sip_turn(v[3], 21) ^ v[0];
        v[1] = gcookie_sip_turn(v[1], 17) ^ v[2];
        v[2] = gcookie_sip_turn(v[2], 32);
    }
}

/* SipHash-c-d with `each` = c rounds a word and `last` = d at the end. */
static inline uint64_t gcookie_siphash(const unsigned char key[GCOOKIE_SIPHASH_KEY_SIZE],
                                       const unsigned char *data, size_t size, int each, int last) {
    const uint64_t k0 = gcookie_sip_read(key, 8), k1 = gcookie_sip_read(key + 8, 8);
    uint64_t v[4] = {k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                     k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573)};
    uint64_t word;
    size_t at = 0;
    for (; size - at >= 8; at += 8) {
        word = gcookie_sip_read(data + at, 8);
        v[3] ^= word;
        gcookie_sip_rounds(v, each);
        v[0] ^= word;
    }
    word = (uint64_t)size << 56 | gcookie_sip_read(data + at, size - at);
    v[3] ^= word;
    gcookie_sip_rounds(v, each);
    v[0] ^= word;
    v[2] ^= 0xff;
    gcookie_sip_rounds(v, last);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
