/* Rings: what stands in one has a link, and the ring's own link is its end. */
#ifndef GNUTLS_COOKIE_RING_H
#define GNUTLS_COOKIE_RING_H

struct gcookie_link {
    struct gcookie_link *older, *newer;
};

/* A ring without anything in it, or a link that is in none. */
static inline void gcookie_ring_empty(struct gcookie_link *ring) {
    ring->older = ring->newer = ring;
}

static inline void gcookie_ring_take_out(struct gcookie_link *link) {
    link->older->newer = link->newer;
    link->newer->older = link->older;
    gcookie_ring_empty(link);
}

static inline void gcookie_ring_put_newest(struct gcookie_link *ring, struct gcookie_link *link) {
    link->older = ring->older;
    link->newer = ring;
    ring->older->newer = link;
    ring->older = link;
}

/* NULL: it is empty. */
static inline struct gcookie_link *gcookie_ring_oldest(const struct gcookie_link *ring) {
    return ring->newer == ring ? (struct gcookie_link *)0 : ring->newer;
}

#endif
