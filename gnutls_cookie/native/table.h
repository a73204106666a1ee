/* A hash table of nodes that their owner allocates. It grows and shrinks by a bucket at a time
 * (linear hashing), so that no single call is long. For one thread at a time. */
#ifndef GNUTLS_COOKIE_TABLE_H
#define GNUTLS_COOKIE_TABLE_H

#include "siphash.h"

/* Stands in what is kept. */
struct gcookie_node {
    struct gcookie_node *next; /* in its bucket */
    uint64_t hash;
};

struct gcookie_table {
    struct gcookie_node **buckets; /* NULL: none yet */
    size_t used;                   /* buckets in use */
    size_t span;                   /* see table.c */
    size_t capacity;               /* buckets that there is memory for */
    size_t count;                  /* nodes */
    unsigned char key[GCOOKIE_SIPHASH_KEY_SIZE];
};

/* Takes a random key. 0, or a negative code of libgnutls. */
int gcookie_table_init(struct gcookie_table *table);

/* The hash of a key, for the node that is kept under it. */
uint64_t gcookie_table_hash(const struct gcookie_table *table, const void *key, size_t size);

/* The first node with this hash and the next one: the caller compares keys. NULL: no more. */
struct gcookie_node *gcookie_table_first(const struct gcookie_table *table, uint64_t hash);
struct gcookie_node *gcookie_table_next(const struct gcookie_node *node);

/* Adds a node whose hash is set. 0, or -ENOMEM: it is not added. */
int gcookie_table_add(struct gcookie_table *table, struct gcookie_node *node);

/* Takes out a node that is in there. */
void gcookie_table_remove(struct gcookie_table *table, struct gcookie_node *node);

/* Calls `each` for every node, which may free it, and leaves the table empty. */
void gcookie_table_drain(struct gcookie_table *table, void (*each)(struct gcookie_node *node));

#endif
