/* What each IP address and each network holds of a server's connections: 32 and 24 bits of an IPv4
 * address, 128 and 64 of an IPv6 address. An IPv4 address that is mapped into IPv6 is one of IPv4.
 * For one thread at a time. */
#ifndef GNUTLS_COOKIE_SHARES_H
#define GNUTLS_COOKIE_SHARES_H

#include "address.h"
#include "ring.h"
#include "table.h"

enum gcookie_scope { GCOOKIE_OF_ADDRESS = 0, GCOOKIE_OF_PREFIX = 1 };
enum {
    GCOOKIE_SCOPES = 2,
    GCOOKIE_SHARE_KEY_SIZE = 18 /* bytes: scope, family, address */
};

struct gcookie_share {
    struct gcookie_node node; /* first: the table gives a pointer to it */
    unsigned char key[GCOOKIE_SHARE_KEY_SIZE];
    size_t handshaking;
    size_t established;
    struct gcookie_link handshakes; /* the members of those that are under way, by their age */
};

/* Of a connection, for each scope. */
struct gcookie_member {
    struct gcookie_link link;
    struct gcookie_share *share;
};

/* What tells one share from another. */
void gcookie_share_key(unsigned char key[GCOOKIE_SHARE_KEY_SIZE],
                       const union gcookie_address *address, enum gcookie_scope scope);

/* NULL: it holds nothing. */
struct gcookie_share *gcookie_share_of(const struct gcookie_table *shares,
                                       const union gcookie_address *address,
                                       enum gcookie_scope scope);

/* One more handshake; `members` has GCOOKIE_SCOPES. 0 where there is no memory. */
int gcookie_shares_join(struct gcookie_table *shares, const union gcookie_address *address,
                        struct gcookie_member *members);

/* It is complete. */
void gcookie_shares_establish(struct gcookie_member *members);

/* One connection less. */
void gcookie_shares_leave(struct gcookie_table *shares, struct gcookie_member *members,
                          int is_established);

#endif
