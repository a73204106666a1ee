/* The gate under AddressSanitizer and UBSan, against the answers of its Python reference.
 *
 * Reads COUNT cases from stdin (see make_cases.py), hands each datagram over in memory of exactly
 * its size, and compares every field of the verdict. */
#include "gate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct header {
    uint32_t current, previous, client_data, datagram; /* sizes in bytes */
    int32_t kind, reason, presented, key_age;          /* the reference's answer */
    uint32_t record_seq, hsk_read_seq, hsk_write_seq;
    unsigned char reply[GCOOKIE_REPLY_SIZE];
};

static void must(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "driver: %s\n", what);
        exit(3);
    }
}

/* The next `size` bytes of stdin, in memory of just that size. */
static unsigned char *take(size_t size) {
    unsigned char *bytes = malloc(size);
    must(size == 0 || (bytes != NULL && fread(bytes, 1, size, stdin) == size), "a case is cut off");
    return bytes;
}

static void set_key(struct gcookie_key *key, const unsigned char *bytes, size_t size) {
    must(size <= GCOOKIE_KEY_CAPACITY, "key too long");
    if (size > 0)
        memcpy(key->data, bytes, size);
    key->size = (unsigned int)size;
}

int main(int argc, char **argv) {
    struct header header;
    unsigned long cases = 0, wrong = 0;

    must(argc == 2, "usage: driver COUNT");
    while (fread(&header, sizeof header, 1, stdin) == 1) {
        unsigned char *current = take(header.current);
        unsigned char *previous = take(header.previous);
        unsigned char *client_data = take(header.client_data);
        unsigned char *datagram = take(header.datagram);
        struct gcookie_keys keys;
        struct gcookie_verdict verdict;

        memset(&keys, 0, sizeof keys);
        memset(&verdict, 0xaa, sizeof verdict);
        set_key(&keys.current, current, header.current);
        set_key(&keys.previous, previous, header.previous);
#ifdef GCOOKIE_PLANTED_OVERREAD
        if (header.datagram > 30) { /* the gate is told more than there is */
            unsigned char *cut = malloc(30);
            must(cut != NULL, "no memory");
            memcpy(cut, datagram, 30);
            free(datagram);
            datagram = cut;
        }
#endif
        gcookie_gate(&keys, client_data, header.client_data, datagram, header.datagram, &verdict);
        if (verdict.kind != header.kind || verdict.reason != header.reason ||
            verdict.presented != header.presented || verdict.key_age != header.key_age ||
            verdict.prestate.record_seq != header.record_seq ||
            verdict.prestate.hsk_read_seq != header.hsk_read_seq ||
            verdict.prestate.hsk_write_seq != header.hsk_write_seq ||
            memcmp(verdict.reply, header.reply, GCOOKIE_REPLY_SIZE) != 0) {
            fprintf(stderr, "driver: case %lu differs from the reference\n", cases);
            wrong++;
        }
        cases++;
        free(current);
        free(previous);
        free(client_data);
        free(datagram);
    }
    printf("%lu cases, %lu disagreements\n", cases, wrong);
    /* Whoever wrote the cases may have died on the way. */
    return wrong == 0 && cases > 0 && cases == strtoul(argv[1], NULL, 10) ? 0 : 1;
}
