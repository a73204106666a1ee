/* Two real sessions of libgnutls over wire.c and guard.c, a client and a server with PSK, and
 * between them a network that the input rules: it delivers, drops, doubles, reorders, cuts,
 * fragments and changes datagrams, and makes up its own; and a peer with keys that seals what it
 * likes. libgnutls itself is not instrumented; what it may be given of a handshake is claimed, and
 * that nothing gets through which the peer did not say.
 *
 * Input: options; then acts, each a byte (side, kind) and its arguments. */
#include "fuzz.h"
#include "gate.h"
#include "wire.h"

#include <gnutls/crypto.h>
#include <gnutls/dtls.h>

enum {
    VIA_GATE = 1,      /* a cookie exchange comes first */
    UNCUT = 2,         /* datagrams do not go through gcookie_whole_records, as in Python */
    EPHEMERAL = 4,     /* a key exchange with more and longer messages, and a ticket */
    SMALL_MTU = 8,     /* every handshake message in fragments */
    NO_SUCH_USER = 16, /* what the lookup of the key answers */
    LOOKUP_FAILS = 32,
    LARGE_MTU = 64,      /* a message may need more room than a seat has as a rule */
    MEMORY_IS_OUT = 128, /* and does not get it */
};
enum {
    MOST_ACTS = 200,
    MOST_QUEUED = 64, /* datagrams on their way, for each direction */
    MOST_MESSAGES = 64,
    MOST_STEPS = 64, /* calls until a datagram is taken */
    HANDLE = 4711,
};

struct datagram {
    uint8_t *bytes;
    size_t size;
};

struct side {
    struct gcookie_wire *wire;
    gnutls_session_t session; /* of the wire */
    struct gcookie_seat *seat;
    int is_server;
    int established, failed, said_goodbye, heard_goodbye;
    uint64_t given;                   /* records of epoch 0 that libgnutls has got */
    struct gcookie_fragment given_of; /* the message that it has got in part, up to `offset` */
    int switched;
    uint32_t next;
    struct datagram queue[MOST_QUEUED]; /* what it sent and has not arrived */
    unsigned int queued;
    size_t message_size[MOST_MESSAGES]; /* what it said */
    unsigned int messages;
    int heard[MOST_MESSAGES]; /* of what the other said */
};

/* What libFuzzer cannot see in libgnutls: where a session stands counts as coverage. */
#ifdef __linux__
__attribute__((section("__libfuzzer_extra_counters")))
#endif
static uint8_t where[4096];

static struct side sides[2];
static unsigned int options;
static int is_making; /* a session: memory is there */
static double now;    /* seconds */
static struct gcookie_shared *server_credentials, *client_credentials;
static struct gcookie_shared *plain, *ephemeral;
static unsigned char secret[] = "0123456789abcdef";

ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size);
int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                   gnutls_datum_t *key);
/* What wire.c and guard.c call: see SYSTEM in fuzz.py. */
void *fuzz_realloc(void *memory, size_t size);
void *fuzz_malloc(size_t size);
void *fuzz_calloc(size_t number, size_t size);
size_t fuzz_gcookie_guard_next(struct gcookie_guard *guard, gnutls_session_t session,
                               struct gcookie_input *input, unsigned char *out, size_t capacity);

void *fuzz_realloc(void *memory, size_t size) {
    return (options & MEMORY_IS_OUT) ? NULL : realloc(memory, size);
}

void *fuzz_malloc(size_t size) {
    return (options & MEMORY_IS_OUT) ? NULL : malloc(size);
}

void *fuzz_calloc(size_t number, size_t size) {
    return (options & MEMORY_IS_OUT) && !is_making ? NULL : calloc(number, size);
}

/* Whole messages, in order, each byte once, in pieces of which the first is longer than one byte.
 */
static void check_fragment(struct side *side, const unsigned char *body, size_t size) {
    struct gcookie_fragment one, *was = &side->given_of;
    MUST(gcookie_fragment_read(body, size, &one) == size);
    MUST(one.seq == side->next && one.length <= 68 << 10);
    MUST(one.type != 0 && one.type != 20);
    if (was->offset == 0) {
        MUST(one.offset == 0 && (one.size > 1 || one.size == one.length));
    } else {
        MUST(one.type == was->type && one.length == was->length && one.offset == was->offset);
    }
    *was = one;
    was->offset = one.offset + one.size;
    if (was->offset == one.length) {
        was->offset = 0;
        side->next++;
    }
}

size_t fuzz_gcookie_guard_next(struct gcookie_guard *guard, gnutls_session_t session,
                               struct gcookie_input *input, unsigned char *out, size_t capacity) {
    struct side *side = &sides[guard->is_server ? 1 : 0];
    const size_t size = gcookie_guard_next(guard, session, input, out, capacity);
    uint64_t seq = 0;
    MUST(guard->kept <= GCOOKIE_MOST_KEPT && size <= capacity && !side->established);
    if (size == 0) {
        MUST(input->left == 0 && input->messages_left == 0);
        return 0;
    }
    MUST(gcookie_record_size(out, size) == size);
    if (out[3] != 0 || out[4] != 0) {
        MUST(out[0] == GCOOKIE_ALERT ||
             (out[0] == GCOOKIE_HANDSHAKE && size <= GCOOKIE_MOST_EARLY));
        return size;
    }
    for (unsigned int at = 5; at < 11; at++) {
        seq = seq * 256 + out[at];
    }
    MUST(seq == side->given++);
    if (out[0] == GCOOKIE_HANDSHAKE) {
        check_fragment(side, out + GCOOKIE_RECORD_HEADER_SIZE, size - GCOOKIE_RECORD_HEADER_SIZE);
    } else if (out[0] == GCOOKIE_CHANGE_CIPHER_SPEC) {
        MUST(!side->switched++);
    } else {
        MUST(out[0] == GCOOKIE_ALERT && size == GCOOKIE_RECORD_HEADER_SIZE + 2);
    }
    return size;
}

ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size) {
    (void)handle, (void)data, (void)size;
    abort(); /* nothing here is sent through Python */
}

/* The lookup is within a call: another of the same session changes nothing. */
int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                   gnutls_datum_t *key) {
    struct side *server = &sides[1];
    const size_t out_size = server->seat->out_size;
    for (unsigned int at = 0; at < size; at++) {
        MUST(username[at] == username[at]); /* all of it can be read */
    }
    struct gcookie_wire *wire = server->wire;
    MUST(handle == HANDLE && wire->busy == 1);
    MUST(gcookie_wire_send(wire, server->seat, "x", 1) == GCOOKIE_BUSY);
    MUST(gcookie_wire_handshake(wire, server->seat, 1, NULL, 0, now + 1) == GCOOKIE_BUSY);
    MUST(gcookie_wire_receive(wire, server->seat, NULL, 0) == GCOOKIE_BUSY);
    MUST(gcookie_wire_close(wire, server->seat) == GCOOKIE_BUSY);
    MUST(gcookie_wire_alert(wire, server->seat, 1, 0) == GCOOKIE_BUSY);
    MUST(server->seat->out_size == out_size && server->seat->handle == HANDLE);
    if (options & LOOKUP_FAILS) {
        return -1;
    }
    return (options & NO_SUCH_USER) ? 1 : gcookie_datum_copy(key, secret, sizeof secret - 1);
}

/* --- sides
 * ---------------------------------------------------------------------------------------- */

static void open_side(struct side *side, int is_server) {
    struct gcookie_settings *settings = NULL;
    const char *what;
    memset(side, 0, sizeof *side);
    side->is_server = is_server;
    side->seat = calloc(1, sizeof *side->seat);
    MUST(side->seat != NULL);
    gcookie_seat_init(side->seat);
    MUST(gcookie_settings_new(&settings) == 0);
    settings->is_server = is_server;
    settings->retransmit_seconds = 1;
    settings->handshake_seconds = 60;
    settings->has_ticket_key = is_server && (options & EPHEMERAL);
    gcookie_settings_add(settings, is_server ? server_credentials : client_credentials);
    gcookie_settings_add(settings, (options & EPHEMERAL) ? ephemeral : plain);
    if (options & (SMALL_MTU | LARGE_MTU)) {
        settings->mtu = (options & SMALL_MTU) ? 128 : 16384;
    }
    is_making = 1;
    MUST(gcookie_wire_new(&side->wire, sizeof *side->wire, settings, &what) == 0);
    is_making = 0;
    gcookie_settings_release(&settings); /* the wire has it */
    MUST(settings == NULL && side->wire->holders == 1);
    side->session = side->wire->session;
}

static void close_side(struct side *side) {
    MUST(gcookie_wire_kept(side->wire) <= GCOOKIE_MOST_KEPT);
    gcookie_wire_release(&side->wire);
    MUST(side->wire == NULL);
    gcookie_seat_clear(side->seat);
    free(side->seat);
    for (unsigned int at = 0; at < side->queued; at++) {
        free(side->queue[at].bytes);
    }
}

static struct side *other_of(struct side *side) {
    return &sides[side->is_server ? 0 : 1];
}

static void mark(const struct side *side, long code) {
    const unsigned int seen = gnutls_handshake_get_last_in(side->session);
    const unsigned int place =
        (unsigned int)(-code) * 64 + (seen % 32) * 2 + (side->is_server != 0);
    where[(place + (side->established ? 2048u : 0u)) % sizeof where] = 1;
}

static void put(struct side *from, const uint8_t *bytes, size_t size) {
    if (from->queued == MOST_QUEUED) {
        return;
    }
    struct datagram *datagram = &from->queue[from->queued++];
    datagram->size = size;
    datagram->bytes = malloc(size);
    MUST(datagram->bytes != NULL || size == 0);
    memcpy(datagram->bytes, bytes, size);
}

/* The first that is on its way; for the caller to free. */
static struct datagram take_first(struct side *from) {
    struct datagram first = {NULL, 0};
    if (from->queued > 0) {
        first = from->queue[0];
        from->queued--;
        memmove(from->queue, from->queue + 1, from->queued * sizeof first);
    }
    return first;
}

/* What a call sent: whole datagrams, none above the MTU, and the wire is left as it was found. */
static void collect(struct side *side) {
    const struct gcookie_seat *seat = side->seat;
    MUST(side->wire->busy == 0 && side->wire->seat == NULL);
    MUST(seat->input.left == 0 && seat->handle == 0);
    MUST((side->wire->handshake == NULL) ==
         (side->wire->established || side->wire->failed || side->wire->closed));
    MUST(seat->out_size <= seat->out_capacity);
    MUST((seat->out == seat->first) == (seat->out_capacity == sizeof seat->first));
    for (size_t at = 0; at < seat->out_size;) {
        uint32_t size;
        MUST(seat->out_size - at > sizeof size);
        memcpy(&size, seat->out + at, sizeof size);
        at += sizeof size;
        MUST(size > 0 && size <= seat->out_size - at);
        MUST(size <= gnutls_dtls_get_mtu(side->session));
        MUST(gcookie_whole_records(seat->out + at, size, size) == size);
        MUST(side->wire->ever_sent);
        put(side, seat->out + at, size);
        at += size;
    }
}

/* A message must be one that the other side sent, and comes once (RFC 6347 4.1.2.6). */
static void hear(struct side *side, size_t size) {
    const struct side *other = other_of(side);
    const uint8_t *message = side->seat->message;
    MUST(size >= 2 && message[0] == (uint8_t)(other->is_server ? 's' : 'c'));
    const unsigned int number = message[1];
    MUST(number < other->messages && size == other->message_size[number]);
    for (size_t at = 2; at < size; at++) {
        MUST(message[at] == (uint8_t)(at * 31 + number));
    }
    MUST(!side->heard[number]);
    side->heard[number] = 1;
}

static void shake(struct side *side, const uint8_t *in, size_t size) {
    struct gcookie_wire *wire = side->wire;
    const uintptr_t handle = side->is_server ? HANDLE : 0;
    const struct gcookie_handshake *const handshake = wire->handshake;
    const int was_due = handshake != NULL && now >= handshake->due_at;
    const int is_over = handshake != NULL && now >= handshake->deadline;
    const int code = gcookie_wire_handshake(wire, side->seat, handle, in, size, now);
    MUST(was_due || !wire->resent);
    collect(side);
    mark(side, code);
    MUST(code != GCOOKIE_BUSY && code <= 0);
    if (code == 0) {
        side->established = 1;
        MUST(wire->established && !wire->failed && gcookie_wire_timeout(wire, now) < 0);
    } else if (code != GNUTLS_E_AGAIN) {
        MUST(gnutls_error_is_fatal(code) && wire->failed && wire->error == code);
        MUST(gcookie_wire_timeout(wire, now) < 0);
        side->failed = 1;
    } else {
        const double left = gcookie_wire_timeout(wire, now);
        MUST(!is_over && left >= 0 && left <= 60);
        MUST(was_due || !side->wire->starved || left > 0 || wire->handshake->sent_at + 1 <= now);
    }
}

static void listen_once(struct side *side, const uint8_t *in, size_t size) {
    struct gcookie_wire *wire = side->wire;
    const ssize_t code = gcookie_wire_receive(wire, side->seat, in, size);
    collect(side);
    mark(side, code < 0 ? (long)code : 0);
    MUST(code != GCOOKIE_BUSY && code <= (ssize_t)sizeof side->seat->message);
    if (code >= 0) {
        MUST(wire->flight == NULL);
        hear(side, (size_t)code);
    } else if (code == GCOOKIE_GOODBYE) {
        MUST(other_of(side)->said_goodbye && wire->peer_closed && wire->closed);
        side->heard_goodbye = side->said_goodbye = 1;
    } else if (code != GNUTLS_E_AGAIN) {
        MUST(wire->failed && wire->error == code);
        side->failed = 1;
    }
}

/* As Session does: the datagram is offered until it is taken, and what is behind it is read. */
static void arrive(struct side *side, const uint8_t *bytes, size_t size) {
    const size_t whole = gcookie_whole_records(bytes, size, size);
    MUST(whole <= size && gcookie_whole_records(bytes, size, whole) == whole);
    MUST(gcookie_whole_records(bytes, whole, SIZE_MAX) == whole);
    if (!(options & UNCUT)) {
        size = whole;
    }
    uint8_t *in = malloc(size), *copy = malloc(size);
    MUST((in != NULL && copy != NULL) || size == 0);
    if (size > 0) {
        memcpy(in, bytes, size);
        memcpy(copy, bytes, size);
    }
    size_t left = size;
    for (unsigned int step = 0; step < MOST_STEPS; step++) {
        if (side->failed || side->heard_goodbye) {
            break;
        }
        if (!side->established) {
            shake(side, left > 0 ? in + (size - left) : NULL, left);
        } else {
            listen_once(side, left > 0 ? in + (size - left) : NULL, left);
        }
        MUST(side->wire->left <= left);
        left = side->wire->left;
        if (side->wire->starved) {
            MUST(left == 0);
            break;
        }
    }
    MUST(size == 0 || memcmp(in, copy, size) == 0);
    free(in);
    free(copy);
}

/* --- acts
 * ------------------------------------------------------------------------------------------ */

static void say(struct side *side, size_t size) {
    if (!side->established || side->failed || side->said_goodbye ||
        side->messages == MOST_MESSAGES) {
        return;
    }
    uint8_t *message = malloc(size + 2);
    MUST(message != NULL);
    message[0] = side->is_server ? 's' : 'c';
    message[1] = (uint8_t)side->messages;
    for (size_t at = 2; at < size + 2; at++) {
        message[at] = (uint8_t)(at * 31 + side->messages);
    }
    side->message_size[side->messages] = size + 2;
    const ssize_t code = gcookie_wire_send(side->wire, side->seat, message, size + 2);
    collect(side);
    free(message);
    if (code >= 0) {
        MUST(code == (ssize_t)size + 2);
        side->messages++;
    } else if (gnutls_error_is_fatal((int)code) && code != GNUTLS_E_LARGE_PACKET) {
        MUST(options & MEMORY_IS_OUT);
        side->failed = 1;
    }
    mark(side, code < 0 ? (long)code : 1);
}

static void say_goodbye(struct side *side) {
    if (side->established && !side->failed && !side->said_goodbye) {
        side->said_goodbye = 1;
        MUST(gcookie_wire_close(side->wire, side->seat) == 0 && side->wire->closed);
        collect(side);
    }
}

static void say_alert(struct side *side, unsigned int level, unsigned int description) {
    if (!side->failed && !side->said_goodbye) {
        side->said_goodbye = description == GNUTLS_A_CLOSE_NOTIFY;
        gcookie_wire_alert(side->wire, side->seat, (int)(1 + level % 2), (int)description);
        collect(side);
    }
}

/* Everything that is on its way arrives, and what is sent upon that. */
static void settle(void) {
    for (unsigned int turn = 0; turn < MOST_STEPS; turn++) {
        struct side *from = &sides[turn % 2];
        if (from->queued == 0 && other_of(from)->queued == 0) {
            return;
        }
        for (unsigned int count = from->queued; count > 0; count--) {
            const struct datagram datagram = take_first(from);
            arrive(other_of(from), datagram.bytes, datagram.size);
            free(datagram.bytes);
        }
    }
}

/* A datagram that is not what was sent. */
static void change(struct side *to, struct input *input, unsigned int kind) {
    struct datagram one = take_first(other_of(to));
    const size_t at = next_16(input);
    size_t more = kind == 3 ? 0 : 1 + next_byte(input) % 64u;
    uint8_t *bytes = next_bytes(input, &more);
    uint8_t *changed = calloc(1, one.size + more + 1);
    MUST(changed != NULL);
    if (one.size > 0) {
        memcpy(changed, one.bytes, one.size);
    }
    size_t size = one.size;
    if (kind == 3) { /* cut off */
        size = one.size > 0 ? at % one.size : 0;
        if (size >= 13 && at >= 0x8000) { /* and the record's length with it */
            changed[11] = (uint8_t)((size - 13) >> 8);
            changed[12] = (uint8_t)(size - 13);
        }
    } else if (kind == 8) { /* longer */
        if (more > 0) {
            memcpy(changed + size, bytes, more);
        }
        size += more;
    } else { /* with other bytes somewhere */
        for (size_t i = 0; i < more && size > 0; i++) {
            changed[(at + i) % size] ^= bytes[i];
        }
    }
    arrive(to, changed, size);
    free(changed);
    free(bytes);
    free(one.bytes);
}

/* A long one, of a few bytes again and again. */
static void make_up(struct side *to, struct input *input) {
    const size_t size = next_16(input);
    size_t known = next_byte(input);
    uint8_t *bytes = next_bytes(input, &known), *datagram = malloc(size);
    MUST(datagram != NULL || size == 0);
    for (size_t at = 0; at < size; at++) {
        datagram[at] = known > 0 ? bytes[at % known] : 0xff;
    }
    arrive(to, datagram, size);
    free(datagram);
    free(bytes);
}

static void glue(struct side *to) {
    const struct datagram one = take_first(other_of(to)), two = take_first(other_of(to));
    uint8_t *both = malloc(one.size + two.size + 1);
    MUST(both != NULL);
    if (one.size > 0) {
        memcpy(both, one.bytes, one.size);
    }
    if (two.size > 0) {
        memcpy(both + one.size, two.bytes, two.size);
    }
    arrive(to, both, one.size + two.size);
    free(both);
    free(one.bytes);
    free(two.bytes);
}

/* A handshake fragment of which each field is the input's. */
static size_t make_fragment(struct input *input, uint8_t *out, size_t capacity) {
    static const uint8_t types[] = {0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 20, 22, 99};
    uint32_t fields[3]; /* length, offset, size */
    size_t data = 0;
    out[0] = types[next_byte(input) % sizeof types];
    out[4] = 0;
    out[5] = next_byte(input) % 12;
    for (unsigned int at = 0; at < 3; at++) {
        fields[at] = (uint32_t)next_16(input);
        if (fields[at] >= 0xf000) {
            fields[at] *= 256;
        }
    }
    data = next_byte(input) % (capacity - GCOOKIE_MESSAGE_HEADER_SIZE);
    if (next_byte(input) % 4 > 0) { /* as a rule it is as long as it says */
        fields[2] = (uint32_t)data;
    }
    for (unsigned int at = 0; at < 3; at++) {
        uint8_t *const field = out + (at == 0 ? 1 : at * 3 + 3);
        field[0] = (uint8_t)(fields[at] >> 16);
        field[1] = (uint8_t)(fields[at] >> 8);
        field[2] = (uint8_t)fields[at];
    }
    memset(out + GCOOKIE_MESSAGE_HEADER_SIZE, 'f', data);
    return GCOOKIE_MESSAGE_HEADER_SIZE + data;
}

static size_t make_record(uint8_t *out, unsigned int epoch, uint32_t seq, size_t size) {
    static const uint8_t start[] = {22, 0xfe, 0xfd, 0};
    memcpy(out, start, sizeof start);
    out[4] = (uint8_t)epoch;
    memset(out + 5, 0, 2);
    for (unsigned int at = 0; at < 4; at++) {
        out[7 + at] = (uint8_t)(seq >> (24 - 8 * at));
    }
    out[11] = (uint8_t)(size >> 8);
    out[12] = (uint8_t)size;
    return GCOOKIE_RECORD_HEADER_SIZE + size;
}

/* One that anybody can send; or one under the keys of `from`, if it has some (AES-GCM). */
static void send_fragment(struct side *from, struct input *input, int is_sealed) {
    static uint32_t seq;
    uint8_t content[300], datagram[400], head[13];
    size_t size = make_fragment(input, content, 256), room = sizeof datagram;
    gnutls_datum_t mac_key, iv, key;
    gnutls_aead_cipher_hd_t handle;
    uint8_t nonce[12];
    seq++;
    if (!is_sealed) {
        make_record(datagram, 0, seq * 77, size);
        memcpy(datagram + GCOOKIE_RECORD_HEADER_SIZE, content, size);
        arrive(other_of(from), datagram, GCOOKIE_RECORD_HEADER_SIZE + size);
        return;
    }
    if (size < 24 && next_byte(input) % 2) { /* as long as a Finished */
        memset(content + size, 0, 24 - size);
        size = 24;
    }
    if (gnutls_record_get_state(from->session, 0, &mac_key, &iv, &key, head) < 0 || iv.size != 4) {
        return;
    }
    make_record(datagram, 1, 4096 + seq, size);
    memcpy(head, datagram + 3, 8);
    memcpy(head + 8, datagram, 3);
    memcpy(head + 11, datagram + 11, 2);
    memcpy(nonce, iv.data, 4);
    memcpy(nonce + 4, head, 8);
    MUST(gnutls_aead_cipher_init(
             &handle, key.size == 32 ? GNUTLS_CIPHER_AES_256_GCM : GNUTLS_CIPHER_AES_128_GCM,
             &key) == 0);
    memcpy(datagram + GCOOKIE_RECORD_HEADER_SIZE, nonce + 4, 8);
    room -= GCOOKIE_RECORD_HEADER_SIZE + 8;
    MUST(gnutls_aead_cipher_encrypt(handle, nonce, sizeof nonce, head, sizeof head, 16, content,
                                    size, datagram + GCOOKIE_RECORD_HEADER_SIZE + 8, &room) == 0);
    gnutls_aead_cipher_deinit(handle);
    size = make_record(datagram, 1, 4096 + seq, 8 + room);
    arrive(other_of(from), datagram, size);
}

/* The first datagram on its way comes in fragments of that many bytes, the last one first if so
 * wanted. */
static void fragment_it(struct side *to, struct input *input) {
    struct datagram one = take_first(other_of(to));
    const size_t most = 1 + next_byte(input);
    const unsigned int backwards = next_byte(input) % 2;
    const size_t head = GCOOKIE_RECORD_HEADER_SIZE + GCOOKIE_MESSAGE_HEADER_SIZE;
    struct gcookie_fragment whole;
    if (one.size < head || one.bytes[0] != 22 || one.bytes[4] != 0 ||
        gcookie_fragment_read(one.bytes + GCOOKIE_RECORD_HEADER_SIZE,
                              one.size - GCOOKIE_RECORD_HEADER_SIZE, &whole) == 0 ||
        whole.size == 0) {
        arrive(to, one.bytes, one.size);
        free(one.bytes);
        return;
    }
    const size_t parts = (whole.size + most - 1) / most;
    for (size_t part = 0; part < parts; part++) {
        const size_t at = (backwards ? parts - 1 - part : part) * most;
        const size_t size = whole.size - at < most ? whole.size - at : most;
        const size_t offset = whole.offset + at;
        uint8_t piece[25 + 256];
        memcpy(piece, one.bytes, head);
        make_record(piece, 0, (uint32_t)part, GCOOKIE_MESSAGE_HEADER_SIZE + size);
        piece[19] = (uint8_t)(offset >> 16);
        piece[20] = (uint8_t)(offset >> 8);
        piece[21] = (uint8_t)offset;
        piece[22] = 0;
        piece[23] = (uint8_t)(size >> 8);
        piece[24] = (uint8_t)size;
        memcpy(piece + head, one.bytes + head + at, size);
        arrive(to, piece, head + size);
    }
    free(one.bytes);
}

static void act(struct input *input) {
    const unsigned int what = next_byte(input);
    struct side *const to = &sides[what >> 7];
    struct side *const from = other_of(to);
    struct datagram one = {NULL, 0};
    size_t size;
    switch (what % 16) {
    case 0: /* arrives */
    case 4: /* is lost */
        one = take_first(from);
        if (what % 16 == 0) {
            arrive(to, one.bytes, one.size);
        }
        break;
    case 1: /* arrives, and will once more */
        if (from->queued > 0) {
            put(from, from->queue[0].bytes, from->queue[0].size);
            one = take_first(from);
            arrive(to, one.bytes, one.size);
        }
        break;
    case 2:
    case 3:
    case 8:
        change(to, input, what % 16);
        break;
    case 5: /* is overtaken */
        one = take_first(from);
        if (one.bytes != NULL) {
            put(from, one.bytes, one.size);
        }
        break;
    case 6:
        glue(to);
        break;
    case 7: /* made up */
        size = next_16(input) % 4096;
        one.bytes = next_bytes(input, &size);
        arrive(to, one.bytes, size);
        break;
    case 9:
        say(to, next_byte(input));
        break;
    case 10:
        say(to, next_16(input) % 20000);
        break;
    case 11:
        say_goodbye(to);
        break;
    case 12:
        size = next_byte(input);
        say_alert(to, (unsigned int)size, next_byte(input));
        break;
    case 13: /* nothing arrives, and it may be time to say things again */
        now += (what & 16) ? 1 + (what & 96) / 16 : 0;
        arrive(to, NULL, 0);
        break;
    case 14: /* made up, and long */
        make_up(to, input);
        break;
    default:
        switch ((what >> 4) % 4) {
        case 1:
            send_fragment(from, input, 0);
            break;
        case 2:
            send_fragment(from, input, 1);
            break;
        case 3:
            fragment_it(to, input);
            break;
        default:
            settle();
        }
    }
    free(one.bytes);
}

/* The client's first hellos and the gate, as behind a listener; then the hand-over. */
static void exchange_cookies(void) {
    static const unsigned char client_data[] = "192.0.2.1:5684";
    struct side *client = &sides[0], *server = &sides[1];
    struct gcookie_keys keys;
    struct gcookie_verdict verdict;
    memset(&keys, 'k', sizeof keys);
    keys.current.size = 16;
    keys.previous.size = 0;
    for (unsigned int turn = 0; turn < 2 && client->queued > 0; turn++) {
        const struct datagram hello = take_first(client);
        gcookie_gate(&keys, client_data, sizeof client_data, hello.bytes, hello.size, &verdict);
        if (verdict.kind == GCOOKIE_CHALLENGE) {
            while (client->queued > 0) { /* later fragments: no answer */
                free(take_first(client).bytes);
            }
            arrive(client, verdict.reply, GCOOKIE_REPLY_SIZE);
        } else if (verdict.kind == GCOOKIE_VERIFIED) {
            gnutls_dtls_prestate_set(server->session, &verdict.prestate);
            gcookie_wire_begin_at(server->wire, verdict.prestate.hsk_read_seq);
            server->next = verdict.prestate.hsk_read_seq;
            arrive(server, hello.bytes, hello.size);
        }
        free(hello.bytes);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static const char *const kinds = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:+VERS-DTLS1.0:-KX-ALL";
    char text[128];
    static unsigned char name[] = "sen\0sor";
    const gnutls_datum_t key = {secret, sizeof secret - 1};
    const gnutls_datum_t identity = {name, sizeof name - 1};
    (void)argc, (void)argv;
    snprintf(text, sizeof text, "%s:+PSK", kinds);
    MUST(gcookie_shared_priority(&plain, text, NULL) == 0);
    snprintf(text, sizeof text, "%s:+ECDHE-PSK", kinds);
    MUST(gcookie_shared_priority(&ephemeral, text, NULL) == 0);
    MUST(gcookie_shared_credentials(&server_credentials, GCOOKIE_PSK_SERVER) == 0);
    MUST(gcookie_shared_credentials(&client_credentials, GCOOKIE_PSK_CLIENT) == 0);
    MUST(gnutls_psk_set_client_credentials2(client_credentials->pointer, &identity, &key,
                                            GNUTLS_PSK_KEY_RAW) == 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    options = next_byte(&input);
    now = 0;
    open_side(&sides[0], 0);
    open_side(&sides[1], 1);
    shake(&sides[0], NULL, 0);
    if (options & VIA_GATE) {
        exchange_cookies();
    }
    for (unsigned int acts = 0; acts < MOST_ACTS && input.size > 0; acts++) {
        act(&input);
    }
    close_side(&sides[0]);
    close_side(&sides[1]);
    return 0;
}
