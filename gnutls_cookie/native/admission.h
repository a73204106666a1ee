/* Who is let in where a server is full: a peer that has an address may not take it from the others.
 *
 * Of an address and of a network the oldest handshake gives way to a newcomer, but only once its
 * flight was to be sent again: before that the newcomer is refused, and asks again. Of all others
 * the oldest handshake gives way at once. A session that is established gives way to nobody. */
#ifndef GNUTLS_COOKIE_ADMISSION_H
#define GNUTLS_COOKIE_ADMISSION_H

#include "connections.h"

/* As RefusalReason has them; GCOOKIE_ADMITTED is none. */
enum gcookie_refusal {
    GCOOKIE_ADMITTED = -1,
    GCOOKIE_REFUSED_FULL = 0,
    GCOOKIE_REFUSED_ADDRESS = 1,
    GCOOKIE_REFUSED_PREFIX = 2,
    GCOOKIE_REFUSED_EARLY = 3,
    GCOOKIE_REFUSED_BUSY = 4 /* by who has the socket */
};
enum { GCOOKIE_REFUSALS = 5, GCOOKIE_MOST_VICTIMS = 4 };

/* Of all connections, and of those in their handshake: at most. */
struct gcookie_limits {
    uint64_t sessions, sessions_of[GCOOKIE_SCOPES];
    uint64_t handshakes, handshakes_of[GCOOKIE_SCOPES];
    uint64_t kept; /* bytes of messages of handshakes that are not whole yet */
};

/* Whether a newcomer is let in, and the connections that end for it: NULL behind the last one.
 * `pending` is the handshake of its address and port that it replaces, or NULL. */
enum gcookie_refusal
gcookie_admission(const struct gcookie_connections *all, const struct gcookie_limits *limits,
                  const union gcookie_address *address, struct gcookie_connection *pending,
                  double now, struct gcookie_connection *victims[GCOOKIE_MOST_VICTIMS + 1]);

#endif
