/* Linear hashing. `span` is the power of two at or above the number of buckets. A hash belongs to
 * bucket hash % span, or where that one is not there yet, to hash % (span / 2). So a new bucket
 * takes its nodes from one other. */
#include "table.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/crypto.h>
#include <stdlib.h>

enum {
    LEAST = 16, /* buckets */
    SPARSE = 4  /* buckets a node: with more the table shrinks, by so many at each removal */
};

static struct gcookie_node **bucket(const struct gcookie_table *table, uint64_t hash) {
    const size_t at = (size_t)hash & (table->span - 1);
    return &table->buckets[at < table->used ? at : at & (table->span / 2 - 1)];
}

/* 0 where there is no memory. */
static int resize(struct gcookie_table *table, size_t capacity) {
    struct gcookie_node **buckets = NULL;
    if (capacity <= SIZE_MAX / sizeof *buckets) {
        buckets = realloc(table->buckets, capacity * sizeof *buckets);
    }
    if (buckets == NULL) {
        return 0;
    }
    table->buckets = buckets;
    table->capacity = capacity;
    return 1;
}

/* One bucket more. Without memory for it the chains become longer. */
static void split(struct gcookie_table *table) {
    const size_t added = table->used;
    if (added == table->capacity && !resize(table, 2 * added)) {
        return;
    }
    if (added == table->span) {
        table->span *= 2;
    }
    struct gcookie_node **from = &table->buckets[added & (table->span / 2 - 1)];
    struct gcookie_node **to = &table->buckets[added];
    while (*from != NULL) {
        struct gcookie_node *node = *from;
        if ((node->hash & (table->span - 1)) == added) {
            *from = node->next;
            *to = node;
            to = &node->next;
        } else {
            from = &node->next;
        }
    }
    *to = NULL;
    table->used++;
}

/* One bucket less. */
static void merge(struct gcookie_table *table) {
    const size_t last = table->used - 1;
    struct gcookie_node **end = &table->buckets[last & (table->span / 2 - 1)];
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = table->buckets[last];
    table->used--;
    if (table->used == table->span / 2) {
        table->span = table->used;
    }
}

int gcookie_table_init(struct gcookie_table *table) {
    table->buckets = NULL;
    table->used = table->span = table->capacity = table->count = 0;
    return gnutls_rnd(GNUTLS_RND_NONCE, table->key, sizeof table->key);
}

uint64_t gcookie_table_hash(const struct gcookie_table *table, const void *key, size_t size) {
    /* 1 and 3 rounds: enough for a table whose hashes nobody sees. */
    return gcookie_siphash(table->key, key, size, 1, 3);
}

struct gcookie_node *gcookie_table_first(const struct gcookie_table *table, uint64_t hash) {
    struct gcookie_node *node = table->count == 0 ? NULL : *bucket(table, hash);
    while (node != NULL && node->hash != hash) {
        node = node->next;
    }
    return node;
}

struct gcookie_node *gcookie_table_next(const struct gcookie_node *node) {
    struct gcookie_node *next = node->next;
    while (next != NULL && next->hash != node->hash) {
        next = next->next;
    }
    return next;
}

int gcookie_table_add(struct gcookie_table *table, struct gcookie_node *node) {
    if (table->buckets == NULL) {
        if (!resize(table, LEAST)) {
            return -ENOMEM;
        }
        for (size_t at = 0; at < LEAST; at++) {
            table->buckets[at] = NULL;
        }
        table->used = table->span = LEAST;
    } else if (table->count >= table->used) {
        split(table);
    }
    struct gcookie_node **place = bucket(table, node->hash);
    node->next = *place;
    *place = node;
    table->count++;
    return 0;
}

void gcookie_table_remove(struct gcookie_table *table, struct gcookie_node *node) {
    struct gcookie_node **place = bucket(table, node->hash);
    while (*place != node) {
        place = &(*place)->next;
    }
    *place = node->next;
    table->count--;
    for (int merged = 0; merged < SPARSE; merged++) {
        if (table->used > LEAST && table->count < table->used / SPARSE) {
            merge(table);
        }
    }
    if (table->capacity > LEAST && table->used <= table->capacity / 4) {
        (void)resize(table, table->capacity / 2); /* what is too large does no harm */
    }
}

void gcookie_table_drain(struct gcookie_table *table, void (*each)(struct gcookie_node *node)) {
    for (size_t at = 0; at < table->used; at++) {
        while (table->buckets[at] != NULL) {
            struct gcookie_node *node = table->buckets[at];
            table->buckets[at] = node->next;
            each(node);
        }
    }
    free(table->buckets);
    table->buckets = NULL;
    table->used = table->span = table->capacity = table->count = 0;
}
