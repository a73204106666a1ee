/* Verified hellos that wait for a session. */
#include "waiting.h"

#include <stdlib.h>
#include <string.h>

static int is_of(const struct gcookie_newcomer *newcomer, const unsigned char *prefix) {
    return memcmp(newcomer->prefix, prefix, sizeof newcomer->prefix) == 0;
}

int gcookie_waiting_put(struct gcookie_waiting *waiting, const struct gcookie_path *path,
                        const gnutls_dtls_prestate_st *prestate, const unsigned char *datagram,
                        size_t size) {
    struct gcookie_newcomer **place = &waiting->first, **former = NULL;
    struct gcookie_newcomer *newcomer;
    unsigned char peer[GCOOKIE_ADDRESS_KEY_SIZE], prefix[GCOOKIE_SHARE_KEY_SIZE];
    unsigned int of_prefix = 0;

    if (!gcookie_address_key(peer, &path->address))
        return 0;
    gcookie_share_key(prefix, &path->address, GCOOKIE_OF_PREFIX);
    for (; *place != NULL; place = &(*place)->next) {
        of_prefix += is_of(*place, prefix) ? 1 : 0;
        if (memcmp((*place)->peer, peer, sizeof peer) == 0)
            former = place;
    }
    if (former == NULL &&
        (waiting->count == GCOOKIE_MOST_WAITING || of_prefix == GCOOKIE_MOST_WAITING_OF_PREFIX))
        return 0;
    if (size > SIZE_MAX - sizeof *newcomer)
        return 0;
    newcomer = malloc(sizeof *newcomer + size);
    if (newcomer == NULL)
        return 0;
    newcomer->path = *path;
    newcomer->prestate = *prestate;
    memcpy(newcomer->peer, peer, sizeof peer);
    memcpy(newcomer->prefix, prefix, sizeof prefix);
    newcomer->size = size;
    memcpy(newcomer->datagram, datagram, size);
    if (former != NULL)
        place = former;
    else
        waiting->count++;
    newcomer->next = *place == NULL ? NULL : (*place)->next;
    free(*place);
    *place = newcomer;
    return 1;
}

struct gcookie_newcomer *gcookie_waiting_take(struct gcookie_waiting *waiting) {
    struct gcookie_newcomer **place = &waiting->first;
    struct gcookie_newcomer *newcomer;

    while (*place != NULL && is_of(*place, waiting->served))
        place = &(*place)->next;
    if (*place == NULL)
        place = &waiting->first;
    newcomer = *place;
    if (newcomer == NULL)
        return NULL;
    *place = newcomer->next;
    newcomer->next = NULL;
    waiting->count--;
    memcpy(waiting->served, newcomer->prefix, sizeof waiting->served);
    return newcomer;
}

void gcookie_waiting_clear(struct gcookie_waiting *waiting) {
    while (waiting->first != NULL) {
        struct gcookie_newcomer *newcomer = waiting->first;
        waiting->first = newcomer->next;
        free(newcomer);
    }
    waiting->count = 0;
}
