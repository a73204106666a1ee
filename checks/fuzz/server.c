/* server.c with several peers and time: real clients of libgnutls with PSK behind a gate, and
 * between them and the server a network that the input rules. Clients start again from their port,
 * fail, say goodbye or fall silent; junk comes in their names; lookups fail, call the server again,
 * or find no key; memory may be out. Claimed is what Python relies on: events of a connection come
 * in order and once, numbers are never given twice, counters add up, no timer stays due, and a
 * session that somebody holds outlives its server.
 *
 * With GCOOKIE_SERVE the datagrams go by a socket, through serve.c: see served_socket.h.
 *
 * Input: options (two bytes with GCOOKIE_SERVE); then acts, each a byte (peer, kind) and its
 * arguments. */
#define _GNU_SOURCE /* struct mmsghdr */
#include "fuzz.h"
#include "gate.h"
#include "server.h"
#include "waiting.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/dtls.h>

enum {
    FEW_SESSIONS = 1,   /* at once */
    FEW_HANDSHAKES = 2, /* of an address and of a network */
    LOOKUP_FAILS = 4,   /* now and then */
    LOOKUP_CALLS = 8,   /* the server again */
    IDLE = 16,          /* connections end for their silence */
    MEMORY_IS_OUT = 32, /* now and then */
    FEW_KEPT = 64,      /* bytes of messages that are not whole */
    HELLOS_WAIT = 128,  /* as a listener has them wait, for a later act */
};
enum {
    PEERS = 6,
    MOST_ACTS = 150,
    MOST_QUEUED = 16,
    MOST_IDS = 256,
    MOST_HELD = 8,
    HANDLE = 4711,
};

struct datagram {
    uint8_t *bytes;
    size_t size;
};

struct peer {
    struct gcookie_path path;
    struct gcookie_wire *client;           /* NULL: none */
    struct datagram queue[2][MOST_QUEUED]; /* to the server, to the client */
    unsigned int queued[2];
};

struct seen {
    uint64_t id;
    int is_open;
};

static struct peer peers[PEERS];
static struct gcookie_server *server;
static struct gcookie_settings *server_settings[2], *client_settings;
static struct gcookie_seat seat;
static struct seen seen[MOST_IDS];
static unsigned int ids;
static struct gcookie_wire *held[MOST_HELD];
static unsigned int options, calls, is_making;
static double now;
static unsigned char secret[] = "0123456789abcdef";
#ifdef GCOOKIE_SERVE
static void serve_must_not(int code);
#else
static struct gcookie_waiting waiting;
#endif

ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size);
int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                   gnutls_datum_t *key);
void *fuzz_realloc(void *memory, size_t size);
void *fuzz_malloc(size_t size);
void *fuzz_calloc(size_t number, size_t size);
size_t fuzz_gcookie_guard_next(struct gcookie_guard *guard, gnutls_session_t session,
                               struct gcookie_input *input, unsigned char *out, size_t capacity);

/* --- what native/ calls ----------------------------------------------------------------------- */

static int is_out(void) {
    return !is_making && (options & MEMORY_IS_OUT) && ++calls % 7 == 0;
}

void *fuzz_realloc(void *memory, size_t size) {
    return is_out() ? NULL : realloc(memory, size);
}

void *fuzz_malloc(size_t size) {
    return is_out() ? NULL : malloc(size);
}

void *fuzz_calloc(size_t number, size_t size) {
    return is_out() ? NULL : calloc(number, size);
}

size_t fuzz_gcookie_guard_next(struct gcookie_guard *guard, gnutls_session_t session,
                               struct gcookie_input *input, unsigned char *out, size_t capacity) {
    return gcookie_guard_next(guard, session, input, out, capacity);
}

ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size) {
    (void)handle, (void)data, (void)size;
    abort(); /* nothing here is sent through Python */
}

int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                   gnutls_datum_t *key) {
    struct gcookie_turn turn;
    const struct gcookie_connection *asking;
    MUST(handle == HANDLE && username != NULL && size > 0);
    asking = gcookie_connections_by_id(&server->connections, server->asking_id);
    MUST(asking != NULL && !asking->is_current);
    MUST(server->asking_settings == asking->wire.settings->number);
    if (options & LOOKUP_CALLS) {
        gcookie_turn_init(&turn);
        MUST(gcookie_server_close(server, &turn, server->asking_id) == GCOOKIE_BUSY);
        MUST(gcookie_server_close_all(server, &turn) == GCOOKIE_BUSY);
        MUST(gcookie_server_handle_timeout(server, &turn, now, HANDLE) == GCOOKIE_BUSY);
        MUST(gcookie_server_receive(server, &turn, &peers[0].path, NULL, 0, NULL, now, HANDLE) ==
             GCOOKIE_BUSY);
        MUST(gcookie_server_send(server, &turn, server->asking_id, "x", 1, now) == GCOOKIE_BUSY);
        MUST(gcookie_server_has(server, &peers[0].path.address) == GCOOKIE_BUSY);
        MUST(gcookie_server_set(server, server_settings[0]) == GCOOKIE_BUSY);
        gcookie_turn_clear(&turn);
#ifdef GCOOKIE_SERVE
        serve_must_not(-EBUSY);
#endif
    }
    if ((options & LOOKUP_FAILS) && ++calls % 3 == 0) {
        return calls % 2 ? -1 : 1;
    }
    return gcookie_datum_copy(key, secret, sizeof secret - 1);
}

/* --- datagrams -------------------------------------------------------------------------------- */

static void put(struct peer *peer, int way, const uint8_t *bytes, size_t size) {
    struct datagram *one;
    if (peer->queued[way] == MOST_QUEUED) {
        return;
    }
    one = &peer->queue[way][peer->queued[way]++];
    one->bytes = malloc(size);
    one->size = size;
    MUST(one->bytes != NULL || size == 0);
    if (size > 0) {
        memcpy(one->bytes, bytes, size);
    }
}

static struct datagram take(struct peer *peer, int way) {
    struct datagram first = {NULL, 0};
    if (peer->queued[way] > 0) {
        first = peer->queue[way][0];
        peer->queued[way]--;
        memmove(peer->queue[way], peer->queue[way] + 1, peer->queued[way] * sizeof first);
    }
    return first;
}

/* --- what the server gives -------------------------------------------------------------------- */

static struct seen *find(uint64_t id) {
    for (unsigned int at = 0; at < ids; at++) {
        if (seen[at].id == id) {
            return &seen[at];
        }
    }
    return NULL;
}

static void connected(struct gcookie_turn *turn, size_t at) {
    const uint64_t id = (uint64_t)turn->events[at].id;
    struct gcookie_wire *wire = NULL;
    MUST(find(id) == NULL);
    if (ids < MOST_IDS) {
        seen[ids++] = (struct seen){id, 1};
    }
    if (calls++ % 2) {
        return; /* nobody holds it but the server, and the turn of its end */
    }
    MUST(!gcookie_turn_hold_wire(turn, at, &wire) && wire == NULL);
    gcookie_wire_hold_at((uintptr_t)turn->events[at].detail, &wire);
    MUST(wire->established && wire->holders > 1);
    for (unsigned int place = 0; place < MOST_HELD && wire != NULL; place++) {
        if (held[place] == NULL) {
            held[place] = wire;
            wire = NULL;
        }
    }
    gcookie_wire_release(&wire);
}

static void heard(struct gcookie_turn *turn) {
    size_t text = 0, at;
    for (at = 0; at < turn->event_count; at++) {
        const struct gcookie_event *event = &turn->events[at];
        struct seen *one = find((uint64_t)event->id);
        if (event->kind == GCOOKIE_CONNECTED) {
            connected(turn, at);
            continue;
        }
        MUST(one != NULL || ids == MOST_IDS || (options & MEMORY_IS_OUT));
        MUST(one == NULL || one->is_open);
        if (event->kind == GCOOKIE_CLOSED) {
            MUST(event->value >= 0 && event->value < GCOOKIE_CLOSE_REASONS);
            if (one != NULL) {
                one->is_open = 0;
            }
            struct gcookie_wire *wire = NULL;
            const int is_held = gcookie_turn_hold_wire(turn, at, &wire);
            MUST(is_held == (event->detail != 0) && is_held == (wire != NULL));
            MUST(is_held || (options & MEMORY_IS_OUT));
            MUST(!is_held || (wire->established && wire->closed | wire->failed));
            MUST(event->value != GCOOKIE_CLOSED_FAILED || !is_held || wire->error < 0);
            gcookie_wire_release(&wire);
        } else {
            MUST(event->kind == GCOOKIE_MESSAGE && event->value >= 0);
            MUST(event->detail == (int64_t)text);
            for (int64_t byte = 0; byte < event->value; byte++) {
                MUST(turn->text[text + (size_t)byte] == (uint8_t)(byte + event->value));
            }
            text += (size_t)event->value;
        }
    }
    MUST(text == turn->text_size);
    MUST(gcookie_turn_state(turn) == GCOOKIE_TURN_DONE);
    MUST(turn->collected == turn->seat.out_size);
    for (at = 0; at < turn->outgoing_count; at++) {
        const struct gcookie_outgoing *one = &turn->outgoing[at];
        MUST(one->size > 0 && one->at + one->size <= turn->seat.out_size);
        MUST(gcookie_whole_records(turn->seat.out + one->at, one->size, one->size) == one->size);
        for (unsigned int peer = 0; peer < PEERS; peer++) {
            if (memcmp(&peers[peer].path, &one->path, sizeof one->path) == 0) {
                put(&peers[peer], 1, turn->seat.out + one->at, one->size);
                break;
            }
            MUST(peer + 1 < PEERS); /* to whom else? */
        }
    }
    for (at = 0; at < turn->forgotten_count; at++) {
        const int there = gcookie_server_has(server, &turn->forgotten[at]);
        MUST(there >= 0 && there <= 2);
    }
    gcookie_turn_clear(turn);
}

#ifdef GCOOKIE_SERVE
#include "served_socket.h"
#define waiting serve.waiting
#endif

/* What holds between any two calls. */
static void check(void) {
    const struct gcookie_connections *all = &server->connections;
    const struct gcookie_server_counters *counters = &server->counters;
    const struct gcookie_waiter *newcomer;
    unsigned int newcomers = 0;
    size_t scheduled = 0;
    MUST(server->busy == 0 && server->turn == NULL && server->handle == 0);
    MUST(counters->sessions + counters->handshaking == all->table.count);
    MUST(counters->handshaking == all->handshaking_count);
    MUST(all->kept <= server->limits.kept);
    for (uint32_t at = 0; at < all->slot_count; at++) {
        const struct gcookie_connection *one = all->slots[at].connection;
        if (one == NULL) {
            continue;
        }
        MUST(one->is_open && (uint32_t)one->id == at && one->wire.busy == 0);
        MUST(one->is_current == one->wire.established && !one->wire.failed);
        MUST((one->place == 0) == (one->is_current != 0));
        MUST(one->place == 0 || all->heap[one->place - 1] == one);
        scheduled += one->place > 0;
    }
    MUST(scheduled == all->heap_count);
    for (newcomer = waiting.first; newcomer != NULL; newcomer = newcomer->next) {
        newcomers++; /* one of each address and port */
    }
    MUST(newcomers == waiting.count && newcomers <= PEERS);
    for (size_t at = 1; at < all->heap_count; at++) {
        MUST(all->heap[at]->due >= all->heap[(at - 1) / 2]->due);
    }
}

/* --- acts ------------------------------------------------------------------------------------- */

static void collect(struct peer *peer) {
    for (size_t at = 0; at < seat.out_size;) {
        uint32_t size;
        memcpy(&size, seat.out + at, sizeof size);
        put(peer, 0, seat.out + at + sizeof size, size);
        at += sizeof size + size;
    }
}

/* The client reads a datagram, or looks at its timer. */
static void let_client(struct peer *peer, const uint8_t *bytes, size_t size) {
    struct gcookie_wire *client = peer->client;
    if (client == NULL || client->failed || client->closed) {
        return;
    }
    size = gcookie_whole_records(bytes, size, size);
    if (!client->established) {
        if (!client->ever_sent) {
            size = 0;
        }
        (void)gcookie_wire_handshake(client, &seat, 0, size > 0 ? bytes : NULL, size, now);
    } else if (size > 0) {
        (void)gcookie_wire_receive(client, &seat, bytes, size);
    } else {
        return;
    }
    collect(peer);
}

static void start(struct peer *peer) {
    const char *what;
    is_making = 1;
    gcookie_wire_release(&peer->client);
    MUST(gcookie_wire_new(&peer->client, sizeof *peer->client, client_settings, &what) == 0);
    is_making = 0;
    let_client(peer, NULL, 0);
}

#ifdef GCOOKIE_SERVE
static void give(struct peer *peer, const uint8_t *bytes, size_t size) {
    serve_put(peer, bytes, size);
    if (!(options & HELLOS_WAIT)) {
        (void)serve_turn();
    }
}

static void begin(void) {
    (void)serve_turn();
}

static void pass_time(double seconds) {
    now += seconds;
    serve_all();
}
#else
static void give(struct peer *peer, const uint8_t *bytes, size_t size) {
    struct gcookie_keys keys;
    struct gcookie_verdict verdict;
    struct gcookie_turn turn;
    memset(&keys, 'k', sizeof keys);
    keys.current.size = 16;
    keys.previous.size = 0;
    gcookie_gate(&keys, &peer->path.address, sizeof peer->path.address, bytes, size, &verdict);
    if (verdict.kind == GCOOKIE_CHALLENGE) {
        put(peer, 1, verdict.reply, GCOOKIE_REPLY_SIZE);
        return;
    }
    if (verdict.kind == GCOOKIE_VERIFIED && (options & HELLOS_WAIT)) {
        MUST(gcookie_waiting_put(&waiting, &peer->path, &verdict.prestate, bytes, size) ||
             (options & MEMORY_IS_OUT));
        return;
    }
    gcookie_turn_init(&turn);
    MUST(gcookie_server_receive(server, &turn, &peer->path, bytes, size,
                                verdict.kind == GCOOKIE_VERIFIED ? &verdict.prestate : NULL, now,
                                HANDLE) == 0);
    heard(&turn);
}

/* A hello that has waited begins its session. */
static void begin(void) {
    struct gcookie_waiter *newcomer = gcookie_waiting_take(&waiting);
    struct gcookie_turn turn;
    if (newcomer == NULL) {
        return;
    }
    gcookie_turn_init(&turn);
    MUST(gcookie_server_receive(server, &turn, &newcomer->path, newcomer->datagram, newcomer->size,
                                &newcomer->prestate, now, HANDLE) == 0);
    heard(&turn);
    free(newcomer);
}

static void pass_time(double seconds) {
    struct gcookie_turn turn;
    double left;
    now += seconds;
    gcookie_turn_init(&turn);
    MUST(gcookie_server_handle_timeout(server, &turn, now, HANDLE) == 0);
    heard(&turn);
    left = gcookie_server_timeout(server, now);
    MUST(left != 0 && left != GCOOKIE_BUSY);
}
#endif

static void say(struct peer *peer, size_t size) {
    uint8_t *message = malloc(size);
    MUST(message != NULL || size == 0);
    for (size_t at = 0; at < size; at++) {
        message[at] = (uint8_t)(at + size);
    }
    if (peer->client != NULL) {
        (void)gcookie_wire_send(peer->client, &seat, message, size);
        collect(peer);
    }
    free(message);
}

/* By the server: to one that is connected, to one that is no more, or to nobody. */
static void answer(struct input *input, int closes) {
    const uint64_t made_up = (uint64_t)next_byte(input) << 32 | next_byte(input);
    const uint64_t id = ids > 0 && made_up % 4 ? seen[made_up % ids].id : made_up;
    struct seen *one = find(id);
    struct gcookie_turn turn;
    gcookie_turn_init(&turn);
    if (closes) {
        MUST(gcookie_server_close(server, &turn, id) == 0);
    } else {
        const size_t size = next_16(input) % 2048;
        uint8_t *message = calloc(1, size + 1);
        ssize_t code;
        MUST(message != NULL);
        code = gcookie_server_send(server, &turn, id, message, size, now);
        MUST(code == (ssize_t)size || code < 0);
        MUST(one == NULL || one->is_open || code == GNUTLS_E_INVALID_SESSION);
        free(message);
    }
    heard(&turn);
}

static void end_server(void) {
    struct gcookie_turn turn;
    gcookie_turn_init(&turn);
    MUST(gcookie_server_close_all(server, &turn) == 0);
    MUST(server->counters.sessions + server->counters.handshaking == 0);
    heard(&turn);
    MUST(gcookie_server_timeout(server, now) < 0);
}

static void open_server(void) {
    is_making = 1;
    MUST(gcookie_server_new(&server) == 0);
    MUST(gcookie_server_set(server, server_settings[0]) == 0);
    is_making = 0;
    ids = 0;
    server->limits.sessions = (options & FEW_SESSIONS) ? 3 : 100;
    if (options & FEW_HANDSHAKES) {
        server->limits.handshakes = 3;
        server->limits.handshakes_of[0] = 1;
        server->limits.handshakes_of[1] = 2;
    }
    server->limits.kept = (options & FEW_KEPT) ? 1000 : 100000;
    server->idle_seconds = (options & IDLE) ? 5 : 1e9;
}

/* A ClientHello's follower in a fragment that is not whole: the guard keeps it. */
static void keep_something(struct peer *peer, struct input *input) {
    uint8_t record[13 + 12 + 40] = {22, 0xfe, 0xfd};
    record[10] = next_byte(input);
    record[12] = 12 + 40;
    record[13] = 16;
    record[15] = 1; /* 256 bytes and more */
    record[16] = next_byte(input);
    record[18] = next_byte(input) % 8;
    record[24] = 40;
    give(peer, record, sizeof record);
}

static void act(struct input *input) {
    const unsigned int what = next_byte(input);
    struct peer *peer = &peers[(what >> 4) % PEERS];
    const int way = what >= 0x80;
    struct datagram one = {NULL, 0};
    size_t size;
    switch (what % 16) {
    case 0:
        start(peer);
        break;
    case 1: /* all of it arrives, to and fro */
    case 2:
        for (unsigned int step = 0; step < 40 && peer->queued[0] + peer->queued[1] > 0; step++) {
            one = take(peer, step % 2);
            if (step % 2 == 0 && one.size > 0) {
                give(peer, one.bytes, one.size);
            } else if (one.size > 0) {
                let_client(peer, one.bytes, one.size);
            }
            free(one.bytes);
        }
        return;
    case 3: /* arrives, and once more */
        one = take(peer, 0);
        give(peer, one.bytes, one.size);
        give(peer, one.bytes, one.size);
#ifdef GCOOKIE_SERVE
        for (unsigned int more = way ? 100 : 0; more > 0; more--) {
            serve_put(&peers[more % PEERS], one.bytes, one.size);
        }
#endif
        break;
    case 4: /* is lost, or overtaken */
        one = take(peer, way);
        if (what % 32 >= 16) {
            put(peer, way, one.bytes, one.size);
        }
        break;
    case 5: /* changed */
        one = take(peer, way);
        if (one.size > 0) {
            one.bytes[next_16(input) % one.size] ^= (uint8_t)(1 + next_byte(input));
            if (way) {
                let_client(peer, one.bytes, one.size);
            } else {
                give(peer, one.bytes, one.size);
            }
        }
        break;
    case 6: /* of another port */
        one = take(peer, 0);
        give(&peers[next_byte(input) % PEERS], one.bytes, one.size);
        break;
    case 7:
        size = next_byte(input);
        one.bytes = next_bytes(input, &size);
        give(peer, one.bytes, size);
        break;
    case 8:
        pass_time((next_byte(input) + 1) / 16.0);
        let_client(peer, NULL, 0);
        break;
    case 9:
        pass_time(next_byte(input));
        break;
    case 10:
        say(peer, next_16(input) % 1500);
        break;
    case 11:
        if (peer->client != NULL) {
            (void)gcookie_wire_close(peer->client, &seat);
            collect(peer);
        }
        break;
    case 12:
#ifdef GCOOKIE_SERVE
        if (way) {
            serve_send(input, next_byte(input));
            break;
        }
#endif
        answer(input, 0);
        break;
    case 13:
        answer(input, way);
        break;
    case 14:
        keep_something(peer, input);
        break;
    default:
        if (what == 0xff) {
            end_server();
        } else if (what == 0xef) {
            gcookie_server_free(&server);
            MUST(server == NULL);
#ifdef GCOOKIE_SERVE
            serve_must_not(-EBADF);
#endif
            open_server();
        } else {
            MUST(gcookie_server_set(server, server_settings[way]) == 0);
            gcookie_wire_release(&held[next_byte(input) % MOST_HELD]);
        }
    }
    free(one.bytes);
}

/* --- all of it -------------------------------------------------------------------------------- */

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static const char *const hosts[PEERS] = {"192.0.2.1", "192.0.2.1",   "192.0.2.2",
                                             "::1",       "2001:db8::1", "2001:db8::2"};
    static unsigned char name[] = "sensor";
    const gnutls_datum_t key = {secret, sizeof secret - 1};
    const gnutls_datum_t identity = {name, sizeof name - 1};
    struct gcookie_shared *credentials = NULL, *priority = NULL;
    (void)argc, (void)argv;
    is_making = 1;
    MUST(gcookie_shared_priority(&priority, "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK", NULL) ==
         0);
    for (unsigned int at = 0; at < 3; at++) {
        struct gcookie_settings **settings = at < 2 ? &server_settings[at] : &client_settings;
        MUST(gcookie_settings_new(settings) == 0);
        MUST(gcookie_shared_credentials(&credentials,
                                        at < 2 ? GCOOKIE_PSK_SERVER : GCOOKIE_PSK_CLIENT) == 0);
        if (at == 2) {
            MUST(gnutls_psk_set_client_credentials2(credentials->pointer, &identity, &key,
                                                    GNUTLS_PSK_KEY_RAW) == 0);
        }
        gcookie_settings_add(*settings, credentials);
        gcookie_shared_release(&credentials);
        gcookie_settings_add(*settings, priority);
        (*settings)->is_server = at < 2;
        (*settings)->retransmit_seconds = 1;
        (*settings)->handshake_seconds = 20;
    }
    gcookie_shared_release(&priority);
    for (unsigned int at = 0; at < PEERS; at++) {
        MUST(gcookie_address_parse(&peers[at].path.address, hosts[at], 1000 + at, 0, 0, 0));
    }
    gcookie_seat_init(&seat);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    options = next_byte(&input);
    calls = 0;
    now = 100;
    open_server();
#ifdef GCOOKIE_SERVE
    system_options = next_byte(&input);
    serve_open();
#endif
    for (unsigned int acts = 0; acts < MOST_ACTS && input.size > 0; acts++) {
        act(&input);
        check();
        if (acts % 3 == 0) {
            begin();
            check();
        }
    }
#ifdef GCOOKIE_SERVE
    serve_close();
#endif
    gcookie_waiting_clear(&waiting);
    memset(&waiting, 0, sizeof waiting);
    gcookie_server_free(&server);
    for (unsigned int at = 0; at < MOST_HELD; at++) {
        MUST(held[at] == NULL || gcookie_wire_data_mtu(held[at]->session) > 0);
        gcookie_wire_release(&held[at]);
    }
    for (unsigned int at = 0; at < PEERS; at++) {
        gcookie_wire_release(&peers[at].client);
        for (int way = 0; way < 2; way++) {
            while (peers[at].queued[way] > 0) {
                free(take(&peers[at], way).bytes);
            }
        }
    }
    gcookie_seat_clear(&seat);
    return 0;
}
