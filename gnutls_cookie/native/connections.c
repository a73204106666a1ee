/* The connections of a server. */
#include "connections.h"

#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <string.h>

enum {
    LEAST = 64, /* places */
    FLOOD = 256 /* handshakes at once; their memory is some megabytes */
};

#define OF_NODE(pointer)                                                                           \
    ((struct gcookie_connection *)((char *)(pointer) - offsetof(struct gcookie_connection, node)))
#define OF_LINK(pointer)                                                                           \
    ((struct gcookie_connection *)((char *)(pointer) - offsetof(struct gcookie_connection, link)))

/* --- rings ------------------------------------------------------------------------------------ */

struct gcookie_connection *gcookie_connections_first(const struct gcookie_link *ring) {
    struct gcookie_link *const first = gcookie_ring_oldest(ring);
    return first == NULL ? NULL : OF_LINK(first);
}

static struct gcookie_connection *of_member(const struct gcookie_link *link,
                                            enum gcookie_scope scope) {
    const size_t at = offsetof(struct gcookie_connection, members) +
                      (size_t)scope * sizeof(struct gcookie_member) +
                      offsetof(struct gcookie_member, link);
    return (struct gcookie_connection *)((char *)link - at);
}

struct gcookie_connection *gcookie_connections_first_of(const struct gcookie_share *share,
                                                        enum gcookie_scope scope) {
    const struct gcookie_link *const first = gcookie_ring_oldest(&share->handshakes);
    return first == NULL ? NULL : of_member(first, scope);
}

struct gcookie_connection *gcookie_connections_next_of(const struct gcookie_share *share,
                                                       enum gcookie_scope scope,
                                                       const struct gcookie_connection *one) {
    const struct gcookie_link *const next = one->members[scope].link.newer;
    return next == &share->handshakes ? NULL : of_member(next, scope);
}

struct gcookie_connection *gcookie_connections_younger(const struct gcookie_connections *all,
                                                       const struct gcookie_connection *one) {
    return one->link.newer == &all->handshaking ? NULL : OF_LINK(one->link.newer);
}

struct gcookie_connection *gcookie_connections_keeping(const struct gcookie_connections *all) {
    struct gcookie_link *const first = gcookie_ring_oldest(&all->keeping);
    return first == NULL
               ? NULL
               : (struct gcookie_connection *)((char *)first -
                                               offsetof(struct gcookie_connection, keeping));
}

/* --- a heap of timers ------------------------------------------------------------------------- */

static void place(struct gcookie_connections *all, size_t at, struct gcookie_connection *one) {
    all->heap[at] = one;
    one->place = at + 1;
}

static void sift(struct gcookie_connections *all, size_t at) {
    struct gcookie_connection *one = all->heap[at];
    while (at > 0 && all->heap[(at - 1) / 2]->due > one->due) {
        place(all, at, all->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        size_t next = 2 * at + 1;
        if (next >= all->heap_count)
            break;
        if (next + 1 < all->heap_count && all->heap[next + 1]->due < all->heap[next]->due)
            next++;
        if (all->heap[next]->due >= one->due)
            break;
        place(all, at, all->heap[next]);
        at = next;
    }
    place(all, at, one);
}

static void unschedule(struct gcookie_connections *all, struct gcookie_connection *one) {
    const size_t at = one->place - 1;
    struct gcookie_connection *last;
    if (one->place == 0)
        return;
    one->place = 0;
    last = all->heap[--all->heap_count];
    if (last != one) {
        place(all, at, last);
        sift(all, at);
    }
}

/* There is room in the heap for each: see gcookie_connections_add. */
void gcookie_connections_schedule(struct gcookie_connections *all, struct gcookie_connection *one,
                                  double due) {
    one->due = due;
    if (one->place == 0)
        place(all, all->heap_count++, one);
    sift(all, one->place - 1);
}

struct gcookie_connection *gcookie_connections_due(const struct gcookie_connections *all) {
    return all->heap_count == 0 ? NULL : all->heap[0];
}

struct gcookie_connection *gcookie_connections_idle(const struct gcookie_connections *all) {
    return gcookie_connections_first(&all->established);
}

struct gcookie_connection *gcookie_connections_oldest(const struct gcookie_connections *all) {
    return gcookie_connections_first(&all->handshaking);
}

void gcookie_connections_touch(struct gcookie_connections *all, struct gcookie_connection *one,
                               double now) {
    one->active = now;
    unschedule(all, one);
    if (all->established.older != &one->link) {
        gcookie_ring_take_out(&one->link);
        gcookie_ring_put_newest(&all->established, &one->link);
    }
}

void gcookie_connections_establish(struct gcookie_connections *all, struct gcookie_connection *one,
                                   double now) {
    one->is_current = 1;
    all->handshaking_count--;
    gcookie_shares_establish(one->members);
    gcookie_connections_keep(all, one, 0);
    gcookie_connections_touch(all, one, now);
}

void gcookie_connections_keep(struct gcookie_connections *all, struct gcookie_connection *one,
                              uint32_t kept) {
    if (one->kept == 0 && kept > 0)
        gcookie_ring_put_newest(&all->keeping, &one->keeping);
    else if (one->kept > 0 && kept == 0)
        gcookie_ring_take_out(&one->keeping);
    all->kept = all->kept - one->kept + kept;
    one->kept = kept;
}

void gcookie_connections_trim(struct gcookie_connections *all) {
    if (all->handshaking_most < FLOOD || all->handshaking_count > all->handshaking_most / 8)
        return;
    all->handshaking_most = all->handshaking_count;
#ifdef __GLIBC__
    (void)malloc_trim(0); /* it keeps what is free in the middle of the heap, else */
#endif
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* Room for one more, in the heap as well. 0 where there is no memory. */
static int make_room(struct gcookie_connections *all) {
    if (all->heap_capacity <= all->handshaking_count) { /* only those have a timer */
        const size_t wanted = all->heap_capacity == 0 ? LEAST : 2 * all->heap_capacity;
        void *grown = realloc(all->heap, wanted * sizeof *all->heap);
        if (grown == NULL)
            return 0;
        all->heap = grown;
        all->heap_capacity = wanted;
    }
    if (all->free_slot == 0) {
        const uint32_t wanted = all->slot_count == 0 ? LEAST : 2 * all->slot_count;
        struct gcookie_slot *grown;
        if (wanted <= all->slot_count)
            return 0;
        grown = realloc(all->slots, wanted * sizeof *grown);
        if (grown == NULL)
            return 0;
        for (uint32_t at = wanted; at-- > all->slot_count;) {
            grown[at].connection = NULL;
            grown[at].generation = 1;
            grown[at].next_free = all->free_slot;
            all->free_slot = at + 1;
        }
        all->slots = grown;
        all->slot_count = wanted;
    }
    return 1;
}

struct gcookie_connection *gcookie_connections_by_id(const struct gcookie_connections *all,
                                                     uint64_t id) {
    const uint32_t at = (uint32_t)id;
    if (at >= all->slot_count || all->slots[at].generation != id >> 32)
        return NULL;
    return all->slots[at].connection;
}

void gcookie_connection_show(const struct gcookie_wire *wire, char out[GCOOKIE_ADDRESS_SHOWN]) {
    gcookie_address_show(&gcookie_connection_path(wire)->address, out);
}

const struct gcookie_path *gcookie_connection_path(const struct gcookie_wire *wire) {
    return &((const struct gcookie_connection *)wire)->path;
}

/* --- all of it -------------------------------------------------------------------------------- */

int gcookie_connections_init(struct gcookie_connections *all) {
    int code;

    memset(all, 0, sizeof *all);
    gcookie_ring_empty(&all->handshaking);
    gcookie_ring_empty(&all->established);
    gcookie_ring_empty(&all->keeping);
    code = gcookie_table_init(&all->shares);
    return code < 0 ? code : gcookie_table_init(&all->table);
}

static void nothing(struct gcookie_node *node) {
    (void)node;
}

void gcookie_connections_clear(struct gcookie_connections *all) {
    gcookie_table_drain(&all->table, nothing);
    gcookie_table_drain(&all->shares, nothing); /* they went with the last connection */
    free(all->slots);
    free(all->heap);
    all->slots = NULL;
    all->heap = NULL;
    all->slot_count = all->free_slot = 0;
    all->heap_count = all->heap_capacity = 0;
}

int gcookie_connections_add(struct gcookie_connections *all, struct gcookie_connection *one) {
    unsigned char key[GCOOKIE_ADDRESS_KEY_SIZE];
    uint32_t at;

    if (!gcookie_address_key(key, &one->path.address) || !make_room(all))
        return 0;
    one->node.hash = gcookie_table_hash(&all->table, key, sizeof key);
    if (!gcookie_shares_join(&all->shares, &one->path.address, one->members))
        return 0;
    if (gcookie_table_add(&all->table, &one->node) < 0) {
        gcookie_shares_leave(&all->shares, one->members, 0);
        return 0;
    }
    at = all->free_slot - 1;
    all->free_slot = all->slots[at].next_free;
    all->slots[at].connection = one;
    one->id = (uint64_t)all->slots[at].generation << 32 | at;
    one->is_open = 1;
    one->place = 0;
    one->kept = 0;
    gcookie_ring_put_newest(&all->handshaking, &one->link);
    all->handshaking_count++;
    if (all->handshaking_count > all->handshaking_most)
        all->handshaking_most = all->handshaking_count;
    return 1;
}

void gcookie_connections_remove(struct gcookie_connections *all, struct gcookie_connection *one) {
    struct gcookie_slot *slot = &all->slots[(uint32_t)one->id];
    one->is_open = 0;
    if (!one->is_current)
        all->handshaking_count--;
    gcookie_connections_keep(all, one, 0);
    gcookie_shares_leave(&all->shares, one->members, one->is_current);
    unschedule(all, one);
    gcookie_ring_take_out(&one->link);
    gcookie_table_remove(&all->table, &one->node);
    slot->connection = NULL;
    if (slot->generation == UINT32_MAX)
        return; /* this place is used up: its numbers would come again */
    slot->generation++;
    slot->next_free = all->free_slot;
    all->free_slot = (uint32_t)one->id + 1;
}

struct gcookie_pair gcookie_connections_of(const struct gcookie_connections *all,
                                           const union gcookie_address *address) {
    struct gcookie_pair pair = {NULL, NULL};
    unsigned char key[GCOOKIE_ADDRESS_KEY_SIZE], other[GCOOKIE_ADDRESS_KEY_SIZE];
    const struct gcookie_node *node;

    if (!gcookie_address_key(key, address))
        return pair;
    node = gcookie_table_first(&all->table, gcookie_table_hash(&all->table, key, sizeof key));
    for (; node != NULL; node = gcookie_table_next(node)) {
        struct gcookie_connection *one = OF_NODE(node);
        if (!gcookie_address_key(other, &one->path.address) || memcmp(key, other, sizeof key) != 0)
            continue;
        if (one->is_current)
            pair.current = one;
        else
            pair.pending = one;
    }
    return pair;
}
