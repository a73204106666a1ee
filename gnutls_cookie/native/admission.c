/* Who is let in where a server is full. */
#include "admission.h"

/* Its flight was not to be sent again yet. */
static int is_young(const struct gcookie_connection *one, double now) {
    return now < one->started + one->wire.settings->retransmit_seconds;
}

struct decision {
    struct gcookie_connection **victims;
    size_t count;
};

static int is_victim(const struct decision *decision, const struct gcookie_connection *one) {
    for (size_t at = 0; at < decision->count; at++)
        if (decision->victims[at] == one)
            return 1;
    return 0;
}

static void choose(struct decision *decision, struct gcookie_connection *one) {
    decision->victims[decision->count++] = one;
    decision->victims[decision->count] = NULL;
}

/* Whether a share has a place, if need be of one that gives way. */
static int has_place(struct decision *decision, const struct gcookie_share *share,
                     enum gcookie_scope scope, uint64_t most, uint64_t most_handshakes,
                     double now) {
    size_t leaving = 0;
    struct gcookie_connection *oldest;

    if (share == NULL)
        return 1;
    for (size_t at = 0; at < decision->count; at++)
        leaving += decision->victims[at]->members[scope].share == share;
    if (share->handshaking + share->established - leaving < most &&
        share->handshaking - leaving < most_handshakes)
        return 1;
    oldest = gcookie_connections_first_of(share, scope);
    while (oldest != NULL && is_victim(decision, oldest))
        oldest = gcookie_connections_next_of(share, scope, oldest);
    if (oldest == NULL || is_young(oldest, now))
        return 0;
    choose(decision, oldest);
    return 1;
}

enum gcookie_refusal
gcookie_admission(const struct gcookie_connections *all, const struct gcookie_limits *limits,
                  const union gcookie_address *address, struct gcookie_connection *pending,
                  double now, struct gcookie_connection *victims[GCOOKIE_MOST_VICTIMS + 1]) {
    struct decision decision = {victims, 0};
    struct gcookie_connection *oldest;

    victims[0] = NULL;
    if (pending != NULL && is_young(pending, now))
        return GCOOKIE_REFUSED_EARLY;
    if (pending != NULL)
        choose(&decision, pending);
    for (int scope = 0; scope < GCOOKIE_SCOPES; scope++)
        if (!has_place(&decision,
                       gcookie_share_of(&all->shares, address, (enum gcookie_scope)scope),
                       (enum gcookie_scope)scope, limits->sessions_of[scope],
                       limits->handshakes_of[scope], now))
            return scope == GCOOKIE_OF_ADDRESS ? GCOOKIE_REFUSED_ADDRESS : GCOOKIE_REFUSED_PREFIX;
    /* All victims are handshakes. */
    if (all->table.count - decision.count < limits->sessions &&
        all->handshaking_count - decision.count < limits->handshakes)
        return GCOOKIE_ADMITTED;
    oldest = gcookie_connections_oldest(all);
    while (oldest != NULL && is_victim(&decision, oldest))
        oldest = gcookie_connections_younger(all, oldest);
    if (oldest == NULL)
        return GCOOKIE_REFUSED_FULL;
    choose(&decision, oldest);
    return GCOOKIE_ADMITTED;
}
