/* A server's sessions. */
#include "server.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where the random of a ClientHello stands in its datagram: behind the record header (13), the
 * handshake header (12) and client_version (2). session_id and cookie follow, each with its
 * length. */
enum { RANDOM_AT = 27, SESSION_ID_AT = 59 };

/* A client repeats its hello until it has our flight, and goes on from there (RFC 6347 4.2.4). So a
 * hello that comes when it has gone on is no repetition, but was late on the network; or the client
 * has started again, with a random number generator that does so, too (4.2.8). What is late is so
 * by less than this; and who waits for an answer has it when it says its hello again. */
static const double REPETITION_SECONDS = 2.0;

static const double TICK_SECONDS = 0.001; /* the shortest time between two looks at a timer */

enum { STEPS = 1024 };                /* calls of a session for one datagram without a message */
enum { HANDSHAKE_IS_OVER = 1 << 30 }; /* for messages_read */

/* --- life ------------------------------------------------------------------------------------- */

int gcookie_server_new(struct gcookie_server **box) {
    struct gcookie_server *server = calloc(1, sizeof *server);
    int code;
    if (server == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    code = gcookie_connections_init(&server->connections);
    if (code < 0) {
        free(server);
        return code;
    }
    gcookie_ring_empty(&server->untold);
    server->tells_forgotten = 1;
    server->idle_seconds = INFINITY;
    memset(&server->limits, 0xff, sizeof server->limits); /* none */
    *box = server;
    return 0;
}

static void release(struct gcookie_connection *one) {
    struct gcookie_wire *wire = &one->wire;
    gcookie_wire_release(&wire);
}

/* And what is held for whoever was told of it. */
static void release_told(struct gcookie_connection *one) {
    if (one->is_told)
        release(one);
    release(one);
}

/* Any one of them; NULL: none. */
static struct gcookie_connection *any(const struct gcookie_server *server) {
    struct gcookie_connection *one = gcookie_connections_oldest(&server->connections);
    return one != NULL ? one : gcookie_connections_idle(&server->connections);
}

void gcookie_server_free(struct gcookie_server **box) {
    struct gcookie_server *server = *box;
    struct gcookie_connection *one;
    *box = NULL;
    if (server == NULL)
        return;
    while ((one = any(server)) != NULL) {
        gcookie_connections_remove(&server->connections, one);
        release_told(one);
    }
    while ((one = gcookie_connections_first(&server->untold)) != NULL) {
        gcookie_ring_take_out(&one->link);
        release(one);
    }
    gcookie_connections_clear(&server->connections);
    gcookie_settings_release(&server->settings);
    free(server);
}

/* 0: the call has the server to itself. */
static int enter(struct gcookie_server *server, struct gcookie_turn *turn, double now,
                 uintptr_t handle) {
    if (__atomic_exchange_n(&server->busy, 1, __ATOMIC_ACQUIRE) != 0)
        return GCOOKIE_BUSY;
    if (turn != NULL)
        gcookie_turn_enter(turn);
    server->turn = turn;
    server->now = now;
    server->handle = handle;
    return 0;
}

static void leave(struct gcookie_server *server) {
    if (server->turn != NULL)
        gcookie_turn_leave(server->turn);
    server->turn = NULL;
    server->handle = 0;
    __atomic_store_n(&server->busy, 0, __ATOMIC_RELEASE);
}

int gcookie_server_set(struct gcookie_server *server, struct gcookie_settings *settings) {
    if (enter(server, NULL, 0, 0) != 0)
        return GCOOKIE_BUSY;
    gcookie_settings_hold(settings);
    gcookie_settings_release(&server->settings);
    server->settings = settings;
    leave(server);
    return 0;
}

/* --- the end of a connection ------------------------------------------------------------------ */

static void end(struct gcookie_server *server, struct gcookie_connection *one, int reason,
                int error) {
    struct gcookie_server_counters *counters = &server->counters;
    struct gcookie_turn *turn = server->turn;
    struct gcookie_pair left;
    const int detail = error == 0 ? 0 : one->wire.error_detail;

    gcookie_connections_remove(&server->connections, one);
    (void)gcookie_wire_close(&one->wire, &turn->seat);
    /* Who replaces it would hear the goodbye. */
    gcookie_turn_collect(turn, reason == GCOOKIE_CLOSED_REPLACED ? NULL : &one->path, one->id);
    counters->closed[reason]++;
    if (one->is_current) {
        counters->sessions--;
        if (error != 0)
            one->wire.error = error;
        if (!gcookie_turn_event(turn, one->id, GCOOKIE_CLOSED, reason,
                                one->is_told ? (int64_t)(uintptr_t)&one->wire : 0) &&
            one->is_told)
            gcookie_ring_put_newest(&server->untold, &one->link);
    } else {
        counters->handshaking--;
        counters->records_refused += gcookie_wire_refused(&one->wire);
        if (reason == GCOOKIE_CLOSED_FAILED || reason == GCOOKIE_CLOSED_TIMED_OUT) {
            const struct gcookie_failure failure = {
                one->id, reason, error, detail, one->wire.lookup_failed, one->path.address};
            gcookie_turn_failure(turn, &failure);
        }
    }
    if (server->tells_forgotten) {
        left = gcookie_connections_of(&server->connections, &one->path.address);
        if (left.current == NULL && left.pending == NULL)
            gcookie_turn_forget(turn, &one->path.address);
    }
    release(one);
}

/* --- a session at work ------------------------------------------------------------------------ */

/* The handshake is complete: only now a former session of this address is replaced. */
static void establish(struct gcookie_server *server, struct gcookie_connection *one) {
    struct gcookie_connection *former =
        gcookie_connections_of(&server->connections, &one->path.address).current;
    struct gcookie_server_counters *counters = &server->counters;

    counters->handshaking--;
    counters->sessions++;
    counters->connected++;
    counters->resumed += gnutls_session_is_resumed(one->wire.session) != 0;
    counters->records_refused += gcookie_wire_refused(&one->wire);
    one->moved_on = server->now;
    gcookie_connections_establish(&server->connections, one, server->now);
    gcookie_turn_collect(server->turn, &one->path, one->id);
    if (former != NULL)
        end(server, former, GCOOKIE_CLOSED_REPLACED, 0);
    if (gcookie_turn_event(server->turn, one->id, GCOOKIE_CONNECTED,
                           (int64_t)gcookie_wire_data_mtu(one->wire.session),
                           (int64_t)(uintptr_t)&one->wire)) {
        gcookie_wire_hold(&one->wire);
        one->is_told = 1;
    }
}

static uint32_t messages_read(const struct gcookie_connection *one) {
    return one->wire.handshake == NULL ? HANDSHAKE_IS_OVER : one->wire.handshake->guard.next;
}

/* 0: the connection has ended. */
static int go_on(struct gcookie_server *server, struct gcookie_connection *one,
                 const unsigned char **at, size_t *left) {
    struct gcookie_wire *wire = &one->wire;
    int code = GNUTLS_E_AGAIN;
    double wait;

    server->asking_id = one->id;
    server->asking_settings = wire->settings->number;
    for (int step = 0; step < STEPS && code == GNUTLS_E_AGAIN; step++) {
        code = gcookie_wire_handshake(wire, &server->turn->seat, server->handle,
                                      *left > 0 ? *at : NULL, *left, server->now);
        if (*left > 0)
            *at += *left - wire->left;
        *left = wire->left;
        if (code == GNUTLS_E_AGAIN &&
            (!wire->starved || (*left == 0 && server->now < wire->handshake->due_at)))
            break;
    }
    if (code != 0 && code != GNUTLS_E_AGAIN) {
        end(server, one,
            code == GNUTLS_E_TIMEDOUT ? GCOOKIE_CLOSED_TIMED_OUT : GCOOKIE_CLOSED_FAILED, code);
        return 0;
    }
    if (messages_read(one) != one->messages_read) {
        if (one->messages_read > 0) /* the hello was before */
            one->moved_on = server->now;
        one->is_doomed = 0;
        one->messages_read = messages_read(one);
    }
    if (code == 0) {
        establish(server, one);
        return 1;
    }
    wait = gcookie_wire_timeout(wire, server->now);
    gcookie_connections_schedule(&server->connections, one, server->now + fmax(wait, TICK_SECONDS));
    return 1;
}

/* 0: the connection has ended. */
static int take_messages(struct gcookie_server *server, struct gcookie_connection *one,
                         const unsigned char *at, size_t left) {
    struct gcookie_wire *wire = &one->wire;
    ssize_t code;

    while (left > 0 || !wire->starved) {
        code = gcookie_wire_receive(wire, &server->turn->seat, left > 0 ? at : NULL, left);
        if (code == GCOOKIE_BUSY)
            return 1; /* who looks at the session does more than that: the datagram is lost */
        if (left > 0)
            at += left - wire->left;
        left = wire->left;
        if (code >= 0) {
            server->counters.messages_received++;
            gcookie_connections_touch(&server->connections, one, server->now);
            (void)gcookie_turn_message(server->turn, one->id, (size_t)code);
        } else if (code == GCOOKIE_GOODBYE) {
            end(server, one, GCOOKIE_CLOSED_PEER, 0);
            return 0;
        } else if (code != GNUTLS_E_AGAIN) {
            end(server, one, GCOOKIE_CLOSED_FAILED, (int)code);
            return 0;
        } else if (!wire->starved) {
            break; /* the rest is too much, and lost */
        }
    }
    return 1;
}

/* Of all that handshakes keep the limit is one, and the first to keep something gives way. */
static void bound_kept(struct gcookie_server *server, struct gcookie_connection *one) {
    struct gcookie_connections *const all = &server->connections;

    gcookie_connections_keep(all, one, gcookie_wire_kept(&one->wire));
    while (all->kept > server->limits.kept)
        end(server, gcookie_connections_keeping(all), GCOOKIE_CLOSED_DISPLACED, 0);
}

/* Let a session work on a datagram, or on its timer; a failure ends this connection alone. */
static void advance(struct gcookie_server *server, struct gcookie_connection *one,
                    const unsigned char *datagram, size_t size) {
    /* A record that is cut off at the end of a datagram is left out, as by Session. */
    size_t left = gcookie_whole_records(datagram, size, size);
    const unsigned char *at = datagram;

    if (!one->wire.established && !go_on(server, one, &at, &left))
        return;
    if (one->wire.established && !take_messages(server, one, at, left))
        return;
    gcookie_turn_collect(server->turn, &one->path, one->id);
    bound_kept(server, one);
}

/* --- in --------------------------------------------------------------------------------------- */

/* What tells one ClientHello from another: its random, session_id and cookie. */
static uint64_t hash_hello(const struct gcookie_server *server, const unsigned char *datagram,
                           size_t size) {
    size_t end_at = SESSION_ID_AT;
    for (int field = 0; field < 2; field++)
        end_at += end_at < size ? 1 + (size_t)datagram[end_at] : 0;
    if (end_at > size)
        end_at = size;
    return size <= RANDOM_AT ? 0
                             : gcookie_table_hash(&server->connections.table, datagram + RANDOM_AT,
                                                  end_at - RANDOM_AT);
}

static int repeats(const struct gcookie_server *server, const struct gcookie_connection *one,
                   uint64_t hello) {
    return one != NULL && one->hello == hello && server->now <= one->moved_on + REPETITION_SECONDS;
}

/* NULL: for want of memory, say. It is counted, and all others are served. */
static struct gcookie_connection *open_connection(struct gcookie_server *server,
                                                  const struct gcookie_path *path, uint64_t hello,
                                                  gnutls_dtls_prestate_st *prestate) {
    struct gcookie_failure failure = {0, GCOOKIE_CLOSED_FAILED, GNUTLS_E_MEMORY_ERROR, 0,
                                      0, path->address};
    struct gcookie_connection *one = NULL;
    struct gcookie_wire *wire = NULL;
    const char *what;
    int code;

    gcookie_settings_renew_ticket_key(server->settings, server->now);
    code = gcookie_wire_new(&wire, sizeof *one, server->settings, &what);

    if (code == 0) {
        one = (struct gcookie_connection *)wire;
        one->path = *path;
        one->hello = hello;
        one->started = one->active = server->now;
        one->moved_on = INFINITY; /* it has not: no hello is late */
        gnutls_dtls_prestate_set(wire->session, prestate);
        gcookie_wire_begin_at(wire, prestate->hsk_read_seq);
        if (gcookie_connections_add(&server->connections, one)) {
            server->counters.handshaking++;
            return one;
        }
        release(one);
    } else {
        failure.error = code;
    }
    server->counters.session_errors++;
    gcookie_turn_failure(server->turn, &failure);
    return NULL;
}

static void receive_hello(struct gcookie_server *server, const struct gcookie_path *path,
                          const unsigned char *datagram, size_t size,
                          gnutls_dtls_prestate_st *prestate) {
    const struct gcookie_pair there = gcookie_connections_of(&server->connections, &path->address);
    const uint64_t hello = hash_hello(server, datagram, size);
    struct gcookie_connection *one = repeats(server, there.pending, hello)   ? there.pending
                                     : repeats(server, there.current, hello) ? there.current
                                                                             : NULL;
    struct gcookie_connection *victims[GCOOKIE_MOST_VICTIMS + 1];
    enum gcookie_refusal refusal;

    if (one != NULL) {
        server->counters.duplicates++;
        one->is_doomed = 0;
        advance(server, one, datagram, size);
        return;
    }
    refusal = gcookie_admission(&server->connections, &server->limits, &path->address,
                                there.pending, server->now, victims);
    if (refusal == GCOOKIE_REFUSED_EARLY)
        there.pending->is_doomed = 1;
    if (refusal != GCOOKIE_ADMITTED) {
        server->counters.refused++;
        server->counters.refused_by[refusal]++;
        return;
    }
    for (size_t at = 0; victims[at] != NULL; at++)
        end(server, victims[at],
            victims[at] == there.pending ? GCOOKIE_CLOSED_REPLACED : GCOOKIE_CLOSED_DISPLACED, 0);
    one = open_connection(server, path, hello, prestate);
    if (one != NULL)
        advance(server, one, datagram, size);
}

void gcookie_server_refuse(struct gcookie_server *server, enum gcookie_refusal refusal) {
    if (enter(server, NULL, 0, 0) != 0)
        return;
    server->counters.refused++;
    server->counters.refused_by[refusal]++;
    leave(server);
}

int gcookie_server_receive(struct gcookie_server *server, struct gcookie_turn *turn,
                           const struct gcookie_path *path, const unsigned char *datagram,
                           size_t size, gnutls_dtls_prestate_st *prestate, double now,
                           uintptr_t handle) {
    struct gcookie_pair there;

    if (enter(server, turn, now, handle) != 0)
        return GCOOKIE_BUSY;
    if (prestate != NULL) {
        receive_hello(server, path, datagram, size, prestate);
        leave(server);
        return 0;
    }
    there = gcookie_connections_of(&server->connections, &path->address);
    if (there.pending == NULL && there.current == NULL)
        server->counters.strays++;
    /* With two sessions each reads what its keys open, and libgnutls drops the rest. */
    if (there.pending != NULL) {
        struct gcookie_connection *const pending = there.pending;
        const uint64_t id = there.current == NULL ? 0 : there.current->id;
        advance(server, pending, datagram, size);
        there.current = gcookie_connections_by_id(&server->connections, id);
    }
    if (there.current != NULL) /* else the other one has just replaced it */
        advance(server, there.current, datagram, size);
    leave(server);
    return 0;
}

static int state_of(const struct gcookie_pair *there) {
    if (there->pending != NULL)
        return GCOOKIE_IN_HANDSHAKE;
    return there->current != NULL ? GCOOKIE_CONNECTED_ALONE : 0;
}

int gcookie_server_receive_connected(struct gcookie_server *server, struct gcookie_turn *turn,
                                     const struct gcookie_path *path, const unsigned char *datagram,
                                     size_t size, double now, uintptr_t handle) {
    struct gcookie_pair there;
    int state;

    if (enter(server, turn, now, handle) != 0)
        return GCOOKIE_BUSY;
    there = gcookie_connections_of(&server->connections, &path->address);
    state = state_of(&there);
    if (state == GCOOKIE_CONNECTED_ALONE)
        advance(server, there.current, datagram, size);
    leave(server);
    return state;
}

/* --- timers ----------------------------------------------------------------------------------- */

static void time_out(struct gcookie_server *server, struct gcookie_connection *one) {
    const int clues = gcookie_wire_clues(&one->wire);
    one->wire.error_detail = clues;
    end(server, one, GCOOKIE_CLOSED_TIMED_OUT, clues == 0 ? 0 : GNUTLS_E_TIMEDOUT);
}

int gcookie_server_handle_timeout(struct gcookie_server *server, struct gcookie_turn *turn,
                                  double now, uintptr_t handle) {
    const size_t most = server->most_due == 0 ? SIZE_MAX : server->most_due;
    struct gcookie_connection *one;
    size_t done = 0;

    if (enter(server, turn, now, handle) != 0)
        return GCOOKIE_BUSY;
    /* The sums are those by which the timers were set: a difference could be rounded to less than
     * the timeout, and the same timer would be due for ever. */
    while (done++ < most && (one = gcookie_connections_due(&server->connections)) != NULL &&
           one->due <= now) {
        if (now >= one->started + one->wire.settings->handshake_seconds)
            time_out(server, one);
        else if (one->is_doomed) /* its flight would go to the client that has started again */
            end(server, one, GCOOKIE_CLOSED_REPLACED, 0);
        else
            advance(server, one, NULL, 0);
    }
    while (done++ < most && (one = gcookie_connections_idle(&server->connections)) != NULL &&
           now >= one->active + server->idle_seconds)
        end(server, one, GCOOKIE_CLOSED_IDLE, 0);
    gcookie_connections_trim(&server->connections);
    leave(server);
    return 0;
}

double gcookie_server_timeout(struct gcookie_server *server, double now) {
    const struct gcookie_connection *one;
    double next = INFINITY;

    if (enter(server, NULL, now, 0) != 0)
        return GCOOKIE_BUSY;
    one = gcookie_connections_due(&server->connections);
    if (one != NULL)
        next = one->due;
    one = gcookie_connections_idle(&server->connections);
    if (one != NULL)
        next = fmin(next, one->active + server->idle_seconds);
    leave(server);
    return isinf(next) ? -1 : fmax(0, next - now);
}

/* --- out -------------------------------------------------------------------------------------- */

ssize_t gcookie_server_send(struct gcookie_server *server, struct gcookie_turn *turn, uint64_t id,
                            const void *data, size_t size, double now) {
    struct gcookie_connection *one;
    ssize_t code = GNUTLS_E_INVALID_SESSION;

    if (enter(server, turn, now, 0) != 0)
        return GCOOKIE_BUSY;
    one = gcookie_connections_by_id(&server->connections, id);
    if (one != NULL && one->is_current) {
        code = gcookie_wire_send(&one->wire, &turn->seat, data, size);
        gcookie_turn_collect(turn, &one->path, id);
        if (code >= 0) {
            server->counters.messages_sent++;
            gcookie_connections_touch(&server->connections, one, now);
        }
    }
    leave(server);
    return code;
}

int gcookie_server_close(struct gcookie_server *server, struct gcookie_turn *turn, uint64_t id) {
    struct gcookie_connection *one;
    if (enter(server, turn, 0, 0) != 0)
        return GCOOKIE_BUSY;
    one = gcookie_connections_by_id(&server->connections, id);
    if (one != NULL)
        end(server, one, GCOOKIE_CLOSED_LOCAL, 0);
    leave(server);
    return 0;
}

int gcookie_server_close_all(struct gcookie_server *server, struct gcookie_turn *turn) {
    struct gcookie_connection *one;
    if (enter(server, turn, 0, 0) != 0)
        return GCOOKIE_BUSY;
    while ((one = any(server)) != NULL)
        end(server, one, GCOOKIE_CLOSED_LOCAL, 0);
    leave(server);
    return 0;
}

int gcookie_server_has(struct gcookie_server *server, const union gcookie_address *address) {
    struct gcookie_pair there;
    if (enter(server, NULL, 0, 0) != 0)
        return GCOOKIE_BUSY;
    there = gcookie_connections_of(&server->connections, address);
    leave(server);
    return state_of(&there);
}
