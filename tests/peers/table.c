/* native/table.c by itself.
 *
 *   table hash EACH LAST SIZE: SipHash-EACH-LAST of the bytes 0, 1, ..., SIZE - 1 under the key 0,
 * 1,
 *     ..., 15, in hex.
 *   table walk SEED NODES: adds and removes nodes at random, up to NODES at a time, and compares
 * with a plain array after each step. Prints the largest number of buckets and of nodes in one. */
#include "../../gnutls_cookie/native/table.c"

#include <stdio.h>
#include <string.h>

enum { KEYS = 1 << 16 };

struct thing {
    struct gcookie_node node;
    uint32_t key;
};

static struct thing *there[KEYS];
static size_t freed;

#define MUST(claim)                                                                                \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            printf("line %d does not hold: %s\n", __LINE__, #claim);                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Each has it in common with another key. */
static uint64_t hash_of(const struct gcookie_table *table, uint32_t key) {
    key /= 2;
    return gcookie_table_hash(table, &key, sizeof key);
}

static struct thing *find(const struct gcookie_table *table, uint32_t key) {
    struct gcookie_node *node = gcookie_table_first(table, hash_of(table, key));
    while (node != NULL && ((struct thing *)node)->key != key)
        node = gcookie_table_next(node);
    return (struct thing *)node;
}

static void release(struct gcookie_node *node) {
    freed++;
    free((struct thing *)node);
}

static size_t longest_chain(const struct gcookie_table *table) {
    size_t longest = 0, total = 0;
    for (size_t at = 0; at < table->used; at++) {
        size_t length = 0;
        for (const struct gcookie_node *one = table->buckets[at]; one != NULL; one = one->next)
            length++;
        total += length;
        longest = length > longest ? length : longest;
    }
    MUST(total == table->count);
    return longest;
}

static void toggle(struct gcookie_table *table, uint32_t key) {
    const size_t before = table->used;
    MUST(find(table, key) == there[key]);
    if (there[key] == NULL) {
        there[key] = calloc(1, sizeof *there[key]);
        MUST(there[key] != NULL);
        there[key]->key = key;
        there[key]->node.hash = hash_of(table, key);
        MUST(gcookie_table_add(table, &there[key]->node) == 0);
        MUST(table->used <= before + (before == 0 ? LEAST : 1));
    } else {
        gcookie_table_remove(table, &there[key]->node);
        free(there[key]);
        there[key] = NULL;
        MUST(table->used + SPARSE >= before);
    }
    MUST(find(table, key) == there[key]);
}

static void walk(unsigned int seed, uint32_t keys) {
    struct gcookie_table table;
    size_t most_buckets = 0, chain = 0, count = 0;
    MUST(keys <= KEYS && gcookie_table_init(&table) == 0);
    srandom(seed);
    MUST(gcookie_table_first(&table, 0) == NULL);
    for (int round = 0; round < 3; round++) {
        for (uint32_t key = 0; key < keys; key++) /* up to all of them, */
            if (there[key] == NULL)
                toggle(&table, key);
        MUST(table.count == keys && table.used >= keys && table.used <= keys + LEAST);
        most_buckets = table.used > most_buckets ? table.used : most_buckets;
        count = longest_chain(&table);
        chain = count > chain ? count : chain;
        for (uint32_t step = 0; step < keys; step++) /* here and there, */
            toggle(&table, (uint32_t)random() % keys);
        (void)longest_chain(&table);
        for (uint32_t key = 0; round < 2 && key < keys; key++) /* and down to none */
            if (there[key] != NULL)
                toggle(&table, key);
        if (round < 2)
            MUST(table.count == 0 && table.used == LEAST && table.capacity <= 4 * LEAST);
    }
    count = table.count;
    gcookie_table_drain(&table, release);
    MUST(freed == count && table.count == 0 && table.buckets == NULL);
    printf("%zu %zu\n", most_buckets, chain);
}

static unsigned int number(const char *text) {
    return (unsigned int)strtoul(text, NULL, 10);
}

int main(int count, char **words) {
    unsigned char key[GCOOKIE_SIPHASH_KEY_SIZE], data[64];
    if (count == 4 && strcmp(words[1], "walk") == 0) {
        walk(number(words[2]), number(words[3]));
        return 0;
    }
    if (count != 5 || strcmp(words[1], "hash") != 0 || number(words[4]) > sizeof data)
        return 2;
    for (unsigned char at = 0; at < sizeof key; at++)
        key[at] = at;
    for (unsigned char at = 0; at < sizeof data; at++)
        data[at] = at;
    const uint64_t hash =
        gcookie_siphash(key, data, number(words[4]), (int)number(words[2]), (int)number(words[3]));
    for (int byte = 0; byte < 8; byte++)
        printf("%02x", (unsigned int)(hash >> (8 * byte) & 0xff));
    printf("\n");
    return 0;
}
