/* The gate with any datagram, key and client_data: what it answers is held against a second reading
 * of RFC 6347 and a second HMAC, and everything that its header promises is claimed.
 *
 * Input: sizes of both keys, size of client_data, flags; client_data; the datagram. */
#include "gate.h"
#include "counters.h"
#include "fuzz.h"
#include "transport.h"

#include <gnutls/crypto.h>

enum {
    COOKIE_OF_CURRENT = 1,  /* put the right cookie into a hello that has room for it */
    COOKIE_OF_PREVIOUS = 2, /* or the previous key's */
    NO_CLIENT_DATA = 4,     /* NULL, 0 */
    FIT_LENGTHS = 8,        /* make the lengths of record, message and fragment agree */
};

static size_t number(const uint8_t *bytes, unsigned int count) {
    size_t value = 0;
    for (unsigned int at = 0; at < count; at++) {
        value = value << 8 | bytes[at];
    }
    return value;
}

/* The reading again, in the order of enum gcookie_reason; *cookie is its length byte's offset. */
static int reason_of(const uint8_t *datagram, size_t size, size_t *cookie) {
    if (size < 13) {
        return GCOOKIE_RECORD_HEADER;
    }
    const size_t version = number(datagram + 1, 2);
    const size_t record = number(datagram + 11, 2);
    if (datagram[0] != 22) {
        return GCOOKIE_CONTENT_TYPE;
    }
    if (version != 0xfeff && version != 0xfefd && version != 0x100) {
        return GCOOKIE_RECORD_VERSION;
    }
    if (number(datagram + 3, 2) != 0) {
        return GCOOKIE_EPOCH;
    }
    if (13 + record > size || record > 16384) {
        return GCOOKIE_RECORD_LENGTH;
    }
    if (record < 12) {
        return GCOOKIE_HANDSHAKE_HEADER;
    }
    const size_t length = number(datagram + 14, 3);
    const size_t here = number(datagram + 22, 3);
    if (datagram[13] != 1) {
        return GCOOKIE_HANDSHAKE_TYPE;
    }
    if (number(datagram + 17, 2) > 255) {
        return GCOOKIE_MESSAGE_SEQ;
    }
    if (number(datagram + 19, 3) != 0) {
        return GCOOKIE_FRAGMENT_OFFSET;
    }
    if (here + 12 != record || here > length) {
        return GCOOKIE_FRAGMENT_LENGTH;
    }
    if (here == length && size > 13 + record) {
        return GCOOKIE_TRAILING_DATA;
    }
    if (here < 35) {
        return GCOOKIE_COOKIE_FIELD;
    }
    if (datagram[59] > 32) {
        return GCOOKIE_SESSION_ID;
    }
    *cookie = 60u + datagram[59];
    if (25 + here < *cookie + 1 || 25 + here < *cookie + 1 + datagram[*cookie]) {
        return GCOOKIE_COOKIE_FIELD;
    }
    return GCOOKIE_OK;
}

/* HMAC-SHA1, of which a cookie is the first 16 bytes; 0 where the key is of no use. */
static int right_cookie(const struct gcookie_key *key, const void *client_data, size_t size,
                        unsigned char cookie[20]) {
    if (key->size == 0 || key->size > GCOOKIE_KEY_CAPACITY) {
        return 0;
    }
    MUST(gnutls_hmac_fast(GNUTLS_MAC_SHA1, key->data, key->size, client_data, size, cookie) == 0);
    return 1;
}

static void fill_key(struct gcookie_key *key, unsigned int size, unsigned char first) {
    for (unsigned int at = 0; at < GCOOKIE_KEY_CAPACITY; at++) {
        key->data[at] = (unsigned char)(first + at);
    }
    key->size = size;
}

/* A datagram that is one record, which is one whole message. */
static void fit_lengths(uint8_t *datagram, size_t size) {
    for (unsigned int at = 0; at < 2; at++) {
        datagram[12 - at] = (uint8_t)((size - 13) >> 8 * at);
    }
    for (unsigned int at = 0; at < 3; at++) {
        datagram[16 - at] = datagram[24 - at] = (uint8_t)((size - 25) >> 8 * at);
    }
}

static void check_challenge(const struct gcookie_keys *keys, const void *client_data,
                            size_t client_data_size, const uint8_t *datagram, size_t size,
                            size_t cookie, const struct gcookie_verdict *verdict) {
    static const unsigned char head[13] = {22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31};
    static const unsigned char body[15] = {3, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 19, 0xfe, 0xff, 16};
    unsigned char expected[GCOOKIE_REPLY_SIZE];
    unsigned char mac[20];

    memcpy(expected, head, sizeof head);
    memcpy(expected + sizeof head, body, sizeof body);
    memcpy(expected + 5, datagram + 5, 6);   /* the record's sequence */
    memcpy(expected + 17, datagram + 17, 2); /* message_seq */
    MUST(right_cookie(&keys->current, client_data, client_data_size, mac));
    memcpy(expected + 28, mac, GCOOKIE_SIZE);
    MUST(GCOOKIE_REPLY_SIZE < size);
    MUST(memcmp(verdict->reply, expected, GCOOKIE_REPLY_SIZE) == 0);
    MUST(verdict->presented == (datagram[cookie] > 0));
}

static void check(const struct gcookie_keys *keys, const void *client_data, size_t client_data_size,
                  const uint8_t *datagram, size_t size, const struct gcookie_verdict *verdict) {
    struct gcookie_hello hello, untouched;
    unsigned char mac[20];
    size_t cookie = 0;
    const int reason = reason_of(datagram, size, &cookie);

    memset(&hello, 0xa5, sizeof hello);
    memcpy(&untouched, &hello, sizeof hello);
    MUST(gcookie_parse(datagram, size, &hello) == reason);
    if (reason != GCOOKIE_OK) {
        MUST(memcmp(&hello, &untouched, sizeof hello) == 0);
        MUST(verdict->kind == GCOOKIE_DISCARD && verdict->reason == reason);
        return;
    }
    MUST(hello.record_seq == number(datagram + 5, 6));
    MUST(hello.message_seq == number(datagram + 17, 2));
    MUST(hello.cookie_offset == cookie + 1 && hello.cookie_size == datagram[cookie]);
    MUST(hello.cookie_offset + hello.cookie_size <= size);

    if (keys->current.size == 0 || keys->current.size > GCOOKIE_KEY_CAPACITY) {
        MUST(verdict->kind == GCOOKIE_DISCARD && verdict->reason == GCOOKIE_INTERNAL);
        return;
    }
    /* libgnutls wants a byte behind the cookie (lib/dtls.c); every real hello has it. */
    const int judged = hello.cookie_size == GCOOKIE_SIZE && hello.record_seq <= UINT32_MAX;
    const int whole = hello.cookie_offset + GCOOKIE_SIZE < size;
    int age = -1;
    if (judged && right_cookie(&keys->current, client_data, client_data_size, mac) &&
        memcmp(mac, datagram + hello.cookie_offset, GCOOKIE_SIZE) == 0 && whole) {
        age = 0;
    } else if (judged && keys->previous.size > GCOOKIE_KEY_CAPACITY) {
        MUST(verdict->kind == GCOOKIE_DISCARD && verdict->reason == GCOOKIE_INTERNAL);
        return;
    } else if (judged && right_cookie(&keys->previous, client_data, client_data_size, mac) &&
               memcmp(mac, datagram + hello.cookie_offset, GCOOKIE_SIZE) == 0 && whole) {
        age = 1;
    }
    if (age < 0) {
        MUST(verdict->kind == GCOOKIE_CHALLENGE && verdict->reason == GCOOKIE_OK);
        check_challenge(keys, client_data, client_data_size, datagram, size, cookie, verdict);
        return;
    }
    MUST(verdict->kind == GCOOKIE_VERIFIED && verdict->reason == GCOOKIE_OK &&
         verdict->key_age == age);
    MUST(verdict->prestate.record_seq == hello.record_seq);
    MUST(verdict->prestate.hsk_read_seq == hello.message_seq);
    MUST(verdict->prestate.hsk_write_seq == (hello.message_seq > 1 ? hello.message_seq - 1 : 0));
}

/* What a kind has no use for is 0. */
static void check_unused(const struct gcookie_verdict *verdict) {
    static const unsigned char zeros[GCOOKIE_REPLY_SIZE];
    if (verdict->kind != GCOOKIE_CHALLENGE) {
        MUST(verdict->presented == 0 && memcmp(verdict->reply, zeros, sizeof zeros) == 0);
    }
    if (verdict->kind != GCOOKIE_VERIFIED) {
        MUST(verdict->key_age == 0 && verdict->prestate.record_seq == 0);
        MUST(verdict->prestate.hsk_read_seq == 0 && verdict->prestate.hsk_write_seq == 0);
    }
}

/* The wrapper over libgnutls' two functions: nothing is written where it says no. */
static void check_wrapper(const struct gcookie_key *key, const void *client_data,
                          size_t client_data_size, const uint8_t *datagram, size_t size) {
    const gnutls_dtls_prestate_st before = {7, 8, 9};
    gnutls_dtls_prestate_st prestate = before;
    const unsigned int key_size =
        key->size > GCOOKIE_KEY_CAPACITY ? GCOOKIE_KEY_CAPACITY : key->size;
    if (gcookie_verify(key->data, key_size, client_data, client_data_size, datagram, size,
                       &prestate) < 0) {
        MUST(memcmp(&prestate, &before, sizeof before) == 0);
    }
    const size_t capacity = size % (GCOOKIE_REPLY_SIZE + 2);
    unsigned char *reply = malloc(capacity);
    MUST(reply != NULL || capacity == 0);
    const int sent = gcookie_reply(key->data, key_size, client_data, client_data_size, &prestate,
                                   reply, capacity);
    MUST(sent == GCOOKIE_REPLY_SIZE ||
         (sent < 0 && (capacity < GCOOKIE_REPLY_SIZE || key_size == 0)));
    free(reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct gcookie_keys keys;
    fill_key(&keys.current, next_byte(&input) % (GCOOKIE_KEY_CAPACITY + 2), 'c');
    fill_key(&keys.previous, next_byte(&input) % (GCOOKIE_KEY_CAPACITY + 2), 'p');
    size_t client_data_size = next_byte(&input);
    const unsigned int flags = next_byte(&input);
    uint8_t *client_data = next_bytes(&input, &client_data_size);
    if (flags & NO_CLIENT_DATA) {
        free(client_data);
        client_data = NULL;
        client_data_size = 0;
    }
    size_t datagram_size = input.size;
    uint8_t *datagram = next_bytes(&input, &datagram_size);

    if (flags & FIT_LENGTHS && datagram_size >= 25) {
        fit_lengths(datagram, datagram_size);
    }
    size_t cookie = 0;
    unsigned char mac[20];
    const struct gcookie_key *const key =
        flags & COOKIE_OF_PREVIOUS ? &keys.previous : &keys.current;
    if (flags & (COOKIE_OF_CURRENT | COOKIE_OF_PREVIOUS) &&
        reason_of(datagram, datagram_size, &cookie) == GCOOKIE_OK &&
        datagram[cookie] == GCOOKIE_SIZE && right_cookie(key, client_data, client_data_size, mac)) {
        memcpy(datagram + cookie + 1, mac, GCOOKIE_SIZE);
    }

    uint8_t *const copy = malloc(datagram_size + 1);
    struct gcookie_verdict *const verdict = malloc(sizeof *verdict);
    struct gcookie_verdict again;
    struct gcookie_counters counters;
    MUST(copy != NULL && verdict != NULL);
    if (datagram_size > 0) {
        memcpy(copy, datagram, datagram_size);
    }
    memset(verdict, 0xa5, sizeof *verdict);
    memset(&again, 0x5a, sizeof again);
    memset(&counters, 0, sizeof counters);
    const struct gcookie_keys keys_before = keys;

    gcookie_gate(&keys, client_data, client_data_size, datagram, datagram_size, verdict);
    MUST(gcookie_gate_counted(&keys, client_data, client_data_size, datagram, datagram_size, &again,
                              &counters) == verdict->kind);
    MUST(memcmp(verdict, &again, sizeof again) == 0);
    MUST(datagram_size == 0 || memcmp(copy, datagram, datagram_size) == 0);
    MUST(memcmp(&keys, &keys_before, sizeof keys) == 0);

    uint64_t counted = counters.challenged + counters.verified[0] + counters.verified[1];
    for (unsigned int reason = 0; reason <= GCOOKIE_INTERNAL; reason++) {
        counted += counters.discarded[reason];
    }
    MUST(counted == 1 && counters.presented == (uint64_t)verdict->presented);
    check(&keys, client_data, client_data_size, datagram, datagram_size, verdict);
    check_unused(verdict);
    check_wrapper(&keys.current, client_data, client_data_size, datagram, datagram_size);

    free(verdict);
    free(copy);
    free(datagram);
    free(client_data);
    return 0;
}
