/* What each IP address and each network holds of a server's connections. */
#include "shares.h"

#include <stdlib.h>
#include <string.h>

void gcookie_share_key(unsigned char key[GCOOKIE_SHARE_KEY_SIZE],
                       const union gcookie_address *address, enum gcookie_scope scope) {
    const struct in6_addr *const ip = &address->ipv6.sin6_addr;
    const int is_mapped = address->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(ip);

    memset(key, 0, GCOOKIE_SHARE_KEY_SIZE);
    key[0] = (unsigned char)scope;
    if (address->any.sa_family == AF_INET || is_mapped) {
        const void *const ipv4 =
            is_mapped ? (const void *)(ip->s6_addr + 12) : &address->ipv4.sin_addr;
        key[1] = 4;
        memcpy(key + 2, ipv4, scope == GCOOKIE_OF_ADDRESS ? 4 : 3);
    } else {
        key[1] = 6;
        memcpy(key + 2, ip, scope == GCOOKIE_OF_ADDRESS ? 16 : 8);
    }
}

static struct gcookie_share *find(const struct gcookie_table *shares,
                                  const unsigned char key[GCOOKIE_SHARE_KEY_SIZE], uint64_t hash) {
    struct gcookie_node *node = gcookie_table_first(shares, hash);
    while (node != NULL &&
           memcmp(((struct gcookie_share *)node)->key, key, GCOOKIE_SHARE_KEY_SIZE) != 0)
        node = gcookie_table_next(node);
    return (struct gcookie_share *)node;
}

struct gcookie_share *gcookie_share_of(const struct gcookie_table *shares,
                                       const union gcookie_address *address,
                                       enum gcookie_scope scope) {
    unsigned char key[GCOOKIE_SHARE_KEY_SIZE];
    gcookie_share_key(key, address, scope);
    return find(shares, key, gcookie_table_hash(shares, key, sizeof key));
}

static struct gcookie_share *find_or_make(struct gcookie_table *shares,
                                          const union gcookie_address *address,
                                          enum gcookie_scope scope) {
    unsigned char key[GCOOKIE_SHARE_KEY_SIZE];
    struct gcookie_share *share;
    uint64_t hash;

    gcookie_share_key(key, address, scope);
    hash = gcookie_table_hash(shares, key, sizeof key);
    share = find(shares, key, hash);
    if (share != NULL)
        return share;
    share = calloc(1, sizeof *share);
    if (share == NULL)
        return NULL;
    share->node.hash = hash;
    memcpy(share->key, key, sizeof key);
    gcookie_ring_empty(&share->handshakes);
    if (gcookie_table_add(shares, &share->node) < 0) {
        free(share);
        return NULL;
    }
    return share;
}

static void release(struct gcookie_table *shares, struct gcookie_share *share) {
    if (share->handshaking + share->established > 0)
        return;
    gcookie_table_remove(shares, &share->node);
    free(share);
}

int gcookie_shares_join(struct gcookie_table *shares, const union gcookie_address *address,
                        struct gcookie_member *members) {
    struct gcookie_share *of_address = find_or_make(shares, address, GCOOKIE_OF_ADDRESS);
    struct gcookie_share *of_prefix =
        of_address == NULL ? NULL : find_or_make(shares, address, GCOOKIE_OF_PREFIX);

    if (of_prefix == NULL) {
        if (of_address != NULL)
            release(shares, of_address);
        return 0;
    }
    members[GCOOKIE_OF_ADDRESS].share = of_address;
    members[GCOOKIE_OF_PREFIX].share = of_prefix;
    for (int scope = 0; scope < GCOOKIE_SCOPES; scope++) {
        members[scope].share->handshaking++;
        gcookie_ring_put_newest(&members[scope].share->handshakes, &members[scope].link);
    }
    return 1;
}

void gcookie_shares_establish(struct gcookie_member *members) {
    for (int scope = 0; scope < GCOOKIE_SCOPES; scope++) {
        gcookie_ring_take_out(&members[scope].link);
        members[scope].share->handshaking--;
        members[scope].share->established++;
    }
}

void gcookie_shares_leave(struct gcookie_table *shares, struct gcookie_member *members,
                          int is_established) {
    for (int scope = 0; scope < GCOOKIE_SCOPES; scope++) {
        struct gcookie_share *share = members[scope].share;
        gcookie_ring_take_out(&members[scope].link);
        if (is_established)
            share->established--;
        else
            share->handshaking--;
        release(shares, share);
    }
}
