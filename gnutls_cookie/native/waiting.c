/* Datagrams that wait for their turn. */
#include "waiting.h"

#include <stdlib.h>
#include <string.h>

static int is_of(const struct gcookie_waiter *waiter, const unsigned char *prefix) {
    return memcmp(waiter->prefix, prefix, sizeof waiter->prefix) == 0;
}

int gcookie_waiting_put(struct gcookie_waiting *waiting, const struct gcookie_path *path,
                        const gnutls_dtls_prestate_st *prestate, const unsigned char *datagram,
                        size_t size) {
    struct gcookie_waiter **place = &waiting->first, **former = NULL;
    struct gcookie_waiter *waiter;
    unsigned char peer[GCOOKIE_ADDRESS_KEY_SIZE], prefix[GCOOKIE_SHARE_KEY_SIZE];
    unsigned int of_prefix = 0;

    if (!gcookie_address_key(peer, &path->address))
        return 0;
    gcookie_share_key(prefix, &path->address, GCOOKIE_OF_PREFIX);
    for (; *place != NULL; place = &(*place)->next) {
        of_prefix += is_of(*place, prefix) ? 1 : 0;
        if (prestate != NULL && (*place)->is_hello &&
            memcmp((*place)->peer, peer, sizeof peer) == 0)
            former = place;
    }
    if (former == NULL &&
        (waiting->count == GCOOKIE_MOST_WAITING || of_prefix == GCOOKIE_MOST_WAITING_OF_PREFIX))
        return 0;
    if (size > SIZE_MAX - sizeof *waiter)
        return 0;
    waiter = malloc(sizeof *waiter + size);
    if (waiter == NULL)
        return 0;
    waiter->path = *path;
    waiter->is_hello = prestate != NULL;
    if (prestate != NULL)
        waiter->prestate = *prestate;
    memcpy(waiter->peer, peer, sizeof peer);
    memcpy(waiter->prefix, prefix, sizeof prefix);
    waiter->size = size;
    memcpy(waiter->datagram, datagram, size);
    if (former != NULL)
        place = former;
    else
        waiting->count++;
    waiter->next = *place == NULL ? NULL : (*place)->next;
    free(*place);
    *place = waiter;
    return 1;
}

struct gcookie_waiter *gcookie_waiting_take(struct gcookie_waiting *waiting) {
    struct gcookie_waiter **place = &waiting->first;
    struct gcookie_waiter *waiter;

    while (*place != NULL && is_of(*place, waiting->served))
        place = &(*place)->next;
    if (*place == NULL)
        place = &waiting->first;
    waiter = *place;
    if (waiter == NULL)
        return NULL;
    *place = waiter->next;
    waiter->next = NULL;
    waiting->count--;
    memcpy(waiting->served, waiter->prefix, sizeof waiting->served);
    return waiter;
}

void gcookie_waiting_clear(struct gcookie_waiting *waiting) {
    while (waiting->first != NULL) {
        struct gcookie_waiter *waiter = waiting->first;
        waiting->first = waiter->next;
        free(waiter);
    }
    waiting->count = 0;
}
