/* The connections of a server: by address, by number, by time. Numbers go with the generation of
 * their place, and are never given twice. For one thread at a time. */
#ifndef GNUTLS_COOKIE_CONNECTIONS_H
#define GNUTLS_COOKIE_CONNECTIONS_H

#include "ring.h"
#include "shares.h"
#include "table.h"
#include "turn.h"
#include "wire.h"

struct gcookie_connection {
    struct gcookie_wire wire; /* first: it is counted, and freed with the last holder */
    struct gcookie_node node; /* by address */
    struct gcookie_link link; /* established: by the last message; before: by its beginning */
    struct gcookie_member members[GCOOKIE_SCOPES];
    struct gcookie_link keeping; /* by the time since which it keeps something */
    uint32_t kept;               /* bytes of messages that are not whole yet */
    struct gcookie_path path;
    uint64_t id;
    uint64_t hello;         /* a hash of what tells its ClientHello from others */
    uint32_t messages_read; /* of the handshake */
    uint8_t is_current;     /* established; else it would replace the one that is */
    uint8_t is_open;
    uint8_t is_doomed; /* another hello came from its address and port, and nothing of it since */
    uint8_t is_told;   /* a CONNECTED event was given; there is a holder more, until its end */
    double moved_on;   /* when the client last said more than its hello; infinity: never */
    double started;
    double active; /* when the last message came or went */
    double due;    /* when its timer wants it */
    size_t place;  /* in the heap of timers, from 1; 0: in none */
};

struct gcookie_slot {
    struct gcookie_connection *connection; /* NULL: free */
    uint32_t generation;
    uint32_t next_free; /* from 1; 0: none */
};

struct gcookie_connections {
    struct gcookie_table table;
    struct gcookie_slot *slots;
    uint32_t slot_count, free_slot; /* the latter from 1; 0: none */
    struct gcookie_connection **heap;
    size_t heap_count, heap_capacity;
    struct gcookie_link handshaking, established;
    size_t handshaking_count;
    size_t handshaking_most; /* since memory was given back */
    struct gcookie_table shares;
    struct gcookie_link keeping;
    uint64_t kept; /* bytes */
};

/* 0, or a negative code of libgnutls. */
int gcookie_connections_init(struct gcookie_connections *all);

/* They have been taken out. */
void gcookie_connections_clear(struct gcookie_connections *all);

/* Puts one in that has wire and address: it gets its id, and is the youngest handshake. 0 where
 * there is no memory. */
int gcookie_connections_add(struct gcookie_connections *all, struct gcookie_connection *one);
void gcookie_connections_remove(struct gcookie_connections *all, struct gcookie_connection *one);

/* NULL: it is not there any more. */
struct gcookie_connection *gcookie_connections_by_id(const struct gcookie_connections *all,
                                                     uint64_t id);

/* The ones of an address; either may be NULL. */
struct gcookie_pair {
    struct gcookie_connection *current, *pending;
};
struct gcookie_pair gcookie_connections_of(const struct gcookie_connections *all,
                                           const union gcookie_address *address);

/* The timer of a handshake. */
void gcookie_connections_schedule(struct gcookie_connections *all, struct gcookie_connection *one,
                                  double due);

/* Its handshake is complete. */
void gcookie_connections_establish(struct gcookie_connections *all, struct gcookie_connection *one,
                                   double now);

/* What its handshake keeps now, in bytes. */
void gcookie_connections_keep(struct gcookie_connections *all, struct gcookie_connection *one,
                              uint32_t kept);

/* A message came or went. */
void gcookie_connections_touch(struct gcookie_connections *all, struct gcookie_connection *one,
                               double now);

/* Whose it is, from its wire: gcookie_address_show. */
void gcookie_connection_show(const struct gcookie_wire *wire, char out[GCOOKIE_ADDRESS_SHOWN]);

/* Where one leads, from its wire. */
const struct gcookie_path *gcookie_connection_path(const struct gcookie_wire *wire);

/* Where a flood of handshakes is over: give its memory back to the system. */
void gcookie_connections_trim(struct gcookie_connections *all);

/* The oldest one whose link is in a ring. */
struct gcookie_connection *gcookie_connections_first(const struct gcookie_link *ring);

/* Those that are next: NULL where there is none. */
struct gcookie_connection *gcookie_connections_due(const struct gcookie_connections *all);
struct gcookie_connection *gcookie_connections_idle(const struct gcookie_connections *all);
struct gcookie_connection *gcookie_connections_oldest(const struct gcookie_connections *all);
struct gcookie_connection *gcookie_connections_keeping(const struct gcookie_connections *all);

/* The handshake that began after another; NULL: none did. */
struct gcookie_connection *gcookie_connections_younger(const struct gcookie_connections *all,
                                                       const struct gcookie_connection *one);

/* The oldest handshake of a share, and the one that began after another. */
struct gcookie_connection *gcookie_connections_first_of(const struct gcookie_share *share,
                                                        enum gcookie_scope scope);
struct gcookie_connection *gcookie_connections_next_of(const struct gcookie_share *share,
                                                       enum gcookie_scope scope,
                                                       const struct gcookie_connection *one);

#endif
