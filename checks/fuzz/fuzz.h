/* What the fuzz targets share: reading an input from its start to its end, and claims that must
 * hold. A claim that does not hold ends the process, which libFuzzer calls a finding. */
#ifndef GCOOKIE_FUZZ_H
#define GCOOKIE_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GCOOKIE_WATCHED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define GCOOKIE_WATCHED 1
#endif
#ifdef GCOOKIE_WATCHED
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define MUST(condition) must((condition) != 0, #condition, __FILE__, __LINE__)

static inline void must(int holds, const char *claim, const char *file, int line) {
    if (!holds) {
        fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, claim);
        abort();
    }
}

struct input {
    const uint8_t *data;
    size_t size;
};

/* The next byte; 0 where nothing is left. */
static inline uint8_t next_byte(struct input *input) {
    if (input->size == 0) {
        return 0;
    }
    input->size--;
    return *input->data++;
}

static inline size_t next_16(struct input *input) {
    const size_t high = next_byte(input);
    return high * 256 + next_byte(input);
}

/* The next `size` bytes, or what is left, in memory of exactly that size: a look beyond is seen.
 * For the caller to free. */
static inline uint8_t *next_bytes(struct input *input, size_t *size) {
    if (*size > input->size) {
        *size = input->size;
    }
    uint8_t *bytes = malloc(*size);
    MUST(bytes != NULL || *size == 0);
    if (*size > 0) {
        memcpy(bytes, input->data, *size);
    }
    input->data += *size;
    input->size -= *size;
    return bytes;
}

#endif
