/* The library that `run` preloads, called as servers call it: an empty prestate, verify, else send;
 * or anyhow. For the first the gate says what must come out. The two functions have other names
 * here (see SYSTEM in fuzz.py), so that the gate calls libgnutls' own.
 *
 * All calls are recorded into a small ring, which is read now and then.
 *
 * Input: calls, each a byte and its arguments. */
#include "fuzz.h"
#include "gate.h"
#include "preload/preload.h"
#include "transport.h"

#include <gnutls/crypto.h>

enum {
    MOST_CALLS = 32,
    OTHER_CLIENT = 1, /* send to another than was verified */
    NUMBERS = 2,      /* the caller keeps numbers in its prestate */
    RIGHT_COOKIE = 4, /* where a hello has room for it */
    NO_VERIFY = 8,    /* send alone */
    PEEKED = 16,      /* the server has the start of the datagram only */
    PUSH_FAILS = 32,
    LONG_CLIENT_DATA = 64,
    READ_RING = 128,
    RING_UNITS = 8,
};

struct sent {
    unsigned int times;
    int fails;
    size_t size;
    unsigned char bytes[GCOOKIE_REPLY_SIZE];
};

static struct gcookie_keys keys;

int fuzz_gnutls_dtls_cookie_verify(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                                   void *message, size_t message_size,
                                   gnutls_dtls_prestate_st *prestate);
int fuzz_gnutls_dtls_cookie_send(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                                 gnutls_dtls_prestate_st *prestate, gnutls_transport_ptr_t ptr,
                                 gnutls_push_func push);

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct sent *sent = ptr;
    MUST(size == GCOOKIE_REPLY_SIZE);
    memcpy(sent->bytes, data, size);
    sent->size = size;
    sent->times++;
    return sent->fails ? -1 : (ssize_t)size;
}

static void put_cookie(uint8_t *datagram, size_t size, const uint8_t *client_data,
                       size_t client_data_size) {
    struct gcookie_hello hello;
    unsigned char mac[20];
    if (gcookie_parse(datagram, size, &hello) == GCOOKIE_OK && hello.cookie_size == GCOOKIE_SIZE) {
        MUST(gnutls_hmac_fast(GNUTLS_MAC_SHA1, keys.current.data, keys.current.size, client_data,
                              client_data_size, mac) == 0);
        memcpy(datagram + hello.cookie_offset, mac, GCOOKIE_SIZE);
    }
}

/* The stock recipe, with the whole datagram: as the gate has it. */
static void check(const struct gcookie_verdict *verdict, int code,
                  const gnutls_dtls_prestate_st *after, const struct sent *sent) {
    switch (verdict->kind) {
    case GCOOKIE_VERIFIED:
        MUST(code >= 0 && memcmp(after, &verdict->prestate, sizeof *after) == 0);
        MUST(sent->times == 0);
        break;
    case GCOOKIE_CHALLENGE:
        MUST(code < 0 && sent->times == 1);
        MUST(memcmp(sent->bytes, verdict->reply, GCOOKIE_REPLY_SIZE) == 0);
        break;
    default:
        MUST(code < 0 && sent->times == 0);
    }
}

/* Memory of its own size, as `run` makes it. */
static void use_ring(void) {
    const size_t size = sizeof(struct gcookie_shared) + RING_UNITS * GCOOKIE_UNIT_SIZE;
    struct gcookie_shared *memory = aligned_alloc(4096, size);
    MUST(memory != NULL);
    memset(memory, 0, size);
    memory->unit_count = RING_UNITS;
    gcookie_shared = memory;
}

/* All records that are there: each whole, in units of its own. */
static void read_ring(void) {
    MUST(gcookie_shared->head - gcookie_shared->tail <= RING_UNITS);
    while (gcookie_shared->tail != gcookie_shared->head) {
        const unsigned char *unit =
            gcookie_shared->units + gcookie_shared->tail % RING_UNITS * GCOOKIE_UNIT_SIZE;
        uint64_t tag;
        uint32_t size;
        memcpy(&tag, unit, sizeof tag);
        memcpy(&size, unit + 8, sizeof size);
        MUST(tag == gcookie_shared->tail * 2 + 3);
        MUST(size >= 64 && size <= RING_UNITS * GCOOKIE_UNIT_PAYLOAD);
        gcookie_shared->tail += (size + GCOOKIE_UNIT_PAYLOAD - 1) / GCOOKIE_UNIT_PAYLOAD;
        MUST(gcookie_shared->head - gcookie_shared->tail <= RING_UNITS);
    }
}

static void call(struct input *input) {
    const unsigned int flags = next_byte(input);
    size_t client_data_size = next_byte(input) + ((flags & LONG_CLIENT_DATA) ? 200u : 0u);
    uint8_t *client_data = next_bytes(input, &client_data_size);
    size_t size = next_16(input) % 2048;
    uint8_t *datagram = next_bytes(input, &size);
    gnutls_datum_t key = {keys.current.data, keys.current.size};
    gnutls_dtls_prestate_st prestate = {0, 0, 0};
    struct sent sent = {0, (flags & PUSH_FAILS) != 0, 0, {0}};
    struct gcookie_verdict verdict;
    int code = -1;

    if (flags & NUMBERS) {
        prestate.hsk_write_seq = next_byte(input);
        prestate.record_seq = next_byte(input);
    }
    const gnutls_dtls_prestate_st before = prestate;
    if (flags & RIGHT_COOKIE) {
        put_cookie(datagram, size, client_data, client_data_size);
    }
    gcookie_gate(&keys, client_data, client_data_size, datagram, size, &verdict);
    size_t shown = size;
    if (flags & PEEKED) {
        const size_t least = next_byte(input);
        shown = size < least ? size : least;
    }
    uint8_t *exact = malloc(shown);
    MUST(exact != NULL || shown == 0);
    if (shown > 0) {
        memcpy(exact, datagram, shown);
    }
    if (!(flags & NO_VERIFY)) {
        code = fuzz_gnutls_dtls_cookie_verify(&key, client_data, client_data_size, exact, shown,
                                              &prestate);
        MUST(code >= 0 || memcmp(&prestate, &before, sizeof before) == 0);
    }
    if (code < 0) {
        unsigned char other[] = "another";
        void *const to = (flags & OTHER_CLIENT) ? other : client_data;
        const size_t to_size = (flags & OTHER_CLIENT) ? sizeof other : client_data_size;
        const int result = fuzz_gnutls_dtls_cookie_send(&key, to, to_size, &prestate, &sent, push);
        MUST(sent.times <= 1);
        MUST(sent.times == 0 ? result == 0
                             : result == (sent.fails ? GNUTLS_E_PUSH_ERROR : GCOOKIE_REPLY_SIZE));
        MUST(memcmp(&prestate, &before, sizeof before) == 0);
    }
    const int is_recipe = (flags & (OTHER_CLIENT | NO_VERIFY)) == 0 && before.record_seq == 0 &&
                          before.hsk_write_seq == 0 && client_data_size <= 256;
    MUST(!is_recipe || sent.times == 0 || shown > GCOOKIE_REPLY_SIZE);
    if (is_recipe && shown == size) {
        /* What may be the beginning of a hello is taken for one: the server may have peeked. */
        if (verdict.kind != GCOOKIE_DISCARD || verdict.reason != GCOOKIE_RECORD_LENGTH) {
            check(&verdict, code, &prestate, &sent);
        }
    }
    if (flags & READ_RING) {
        read_ring();
    }
    free(exact);
    free(datagram);
    free(client_data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    memset(&keys, 'k', sizeof keys);
    keys.current.size = 16;
    keys.previous.size = 0;
    if (gcookie_shared->unit_count == 0) {
        use_ring();
    }
    for (unsigned int calls = 0; calls < MOST_CALLS && input.size > 0; calls++) {
        call(&input);
    }
    return 0;
}
