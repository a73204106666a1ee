/* A library to preload into an unmodified server that uses libgnutls. It replaces
 * gnutls_dtls_cookie_verify and gnutls_dtls_cookie_send, calls the real ones, and adds what the
 * gate does. There is no Python in it. docs/drop-in.md says what it can fix and what it cannot.
 *
 * The two calls of the stock recipe (an empty prestate; verify, else send) are matched by their
 * thread. A caller that fills its prestate itself, or sends to another client than the one it
 * verified last, is left alone: its call goes to the real function unchanged. */
#include "preload.h"

#include <string.h>

#define GCOOKIE_EXPORTED __attribute__((visibility("default")))

#define CLIENT_DATA_CAPACITY 256u /* sockaddr_storage has 128; calls with more are left alone */
#define RECORD_SEQ_OFFSET 5u      /* of its 6 bytes in a record header, RFC 6347 4.1 */
#define RECORD_SEQ_SIZE 6u

#define HEADERS_SIZE 25u        /* of record and handshake, RFC 6347 4.1 and 4.2.2 */
#define MOST_OF_A_RECORD 16384u /* RFC 6347 4.1 */
#define COOKIE_END_AT_MOST 348u /* 59, then 1 + 32 for the session id and 1 + 255 */

/* What the last gnutls_dtls_cookie_verify of this thread was about. */
struct last {
    enum { NOTHING, DISCARDED, REJECTED } what;
    unsigned int message_seq;
    unsigned char record_seq[RECORD_SEQ_SIZE];
    size_t client_data_size;
    unsigned char client_data[CLIENT_DATA_CAPACITY];
};
static __thread struct last last;

static int parse(const unsigned char *message, size_t size, struct gcookie_hello *hello);
static int verify_by(gnutls_datum_t *key, void *client_data, size_t client_data_size, void *message,
                     size_t message_size, gnutls_dtls_prestate_st *prestate, int *key_age);
static int is_empty(const gnutls_dtls_prestate_st *prestate);
static void remember(int what, const void *client_data, size_t client_data_size,
                     const unsigned char *message, const struct gcookie_hello *hello);
static int is_for(const struct last *of, const void *client_data, size_t client_data_size);

/* As the real one. A datagram that is not a ClientHello by all its lengths has no cookie to be
 * judged: it is GNUTLS_E_UNEXPECTED_PACKET_LENGTH, and the gnutls_dtls_cookie_send that follows is
 * silent.
 */
GCOOKIE_EXPORTED int gnutls_dtls_cookie_verify(gnutls_datum_t *key, void *client_data,
                                               size_t client_data_size, void *message,
                                               size_t message_size,
                                               gnutls_dtls_prestate_st *prestate) {
    struct gcookie_hello hello;
    struct gcookie_verdict verdict = {.kind = GCOOKIE_DISCARD};
    gnutls_dtls_prestate_st filled = {0, 0, 0};
    int key_age = 0;

    if (!gcookie_find_real()) {
        return GNUTLS_E_INTERNAL_ERROR;
    }
    last.what = NOTHING;
    if (prestate == NULL || (message == NULL && message_size > 0)) {
        return gcookie_real.verify(key, client_data, client_data_size, message, message_size,
                                   prestate);
    }
    if (!is_empty(prestate)) {
        gcookie_add(&gcookie_shared->left_alone, 1);
        return verify_by(key, client_data, client_data_size, message, message_size, prestate,
                         &key_age);
    }
    verdict.reason = parse(message, message_size, &hello);
    if (verdict.reason != GCOOKIE_OK) {
        if (gcookie_is_recording()) {
            /* What the real one says of it: a record is of libgnutls, not of this library. */
            verify_by(key, client_data, client_data_size, message, message_size, &filled, &key_age);
        }
        gcookie_count(&gcookie_shared->counters, &verdict);
        remember(DISCARDED, client_data, client_data_size, NULL, NULL);
        return GNUTLS_E_UNEXPECTED_PACKET_LENGTH;
    }
    int result =
        verify_by(key, client_data, client_data_size, message, message_size, &filled, &key_age);
    if (result >= 0 && hello.record_seq > UINT32_MAX) {
        result = GNUTLS_E_BAD_COOKIE; /* beyond what a prestate can hand over: challenged again */
    }
    if (result < 0) {
        verdict.kind = GCOOKIE_CHALLENGE;
        verdict.presented = hello.cookie_size > 0;
        gcookie_count(&gcookie_shared->counters, &verdict);
        remember(REJECTED, client_data, client_data_size, message, &hello);
        return result;
    }
    verdict.kind = GCOOKIE_VERIFIED;
    verdict.key_age = key_age;
    gcookie_count(&gcookie_shared->counters, &verdict);
    /* As gate.c: the numbers in full, and as the last written that of the HelloVerifyRequest, which
     * echoed the hello before this one. */
    prestate->record_seq = (unsigned int)hello.record_seq;
    prestate->hsk_read_seq = hello.message_seq;
    prestate->hsk_write_seq = (hello.message_seq > 0 ? hello.message_seq : 1) - 1;
    return result;
}

/* gcookie_parse, and more: a server that peeks into a short buffer (gnutls-serv: 255 bytes) has
 * the beginning of the datagram alone, and states that to libgnutls as its size. What it has is
 * taken for a first fragment, as far as the lengths in it agree with each other. */
static int parse(const unsigned char *message, size_t size, struct gcookie_hello *hello) {
    const int reason = gcookie_parse(message, size, hello);
    if (reason != GCOOKIE_RECORD_LENGTH || size < HEADERS_SIZE) {
        return reason;
    }
    const unsigned int record = message[11] * 256u + message[12];
    const unsigned int fragment = message[22] * 65536u + message[23] * 256u + message[24];
    if (record > MOST_OF_A_RECORD || fragment + 12u != record) {
        return reason;
    }
    unsigned char start[COOKIE_END_AT_MOST];
    const size_t length = size < sizeof start ? size : sizeof start;
    memcpy(start, message, length);
    start[11] = (unsigned char)((length - 13) >> 8);
    start[12] = (unsigned char)(length - 13);
    start[22] = 0;
    start[23] = (unsigned char)((length - HEADERS_SIZE) >> 8);
    start[24] = (unsigned char)(length - HEADERS_SIZE);
    return gcookie_parse(start, length, hello);
}

/* The transport of a gnutls_dtls_cookie_send under way. */
struct outgoing {
    gnutls_transport_ptr_t ptr;
    gnutls_push_func push;
    const unsigned char *record_seq; /* NULL: as libgnutls wrote it */
    ssize_t pushed;
    unsigned char reply[GCOOKIE_REPLY_SIZE];
    size_t reply_size;
};

/* 4.2.1: the record sequence of the ClientHello, of which libgnutls writes the lowest byte. */
static ssize_t push_with_all_bits(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct outgoing *out = ptr;
    if (size != sizeof out->reply) {
        return out->pushed = out->push(out->ptr, data, size);
    }
    memcpy(out->reply, data, size);
    out->reply_size = size;
    unsigned char patched[GCOOKIE_REPLY_SIZE];
    memcpy(patched, data, size);
    if (out->record_seq != NULL) {
        memcpy(patched + RECORD_SEQ_OFFSET, out->record_seq, RECORD_SEQ_SIZE);
    }
    return out->pushed = out->push(out->ptr, patched, size);
}

/* As the real one. For a datagram that deserves no answer nothing is pushed, and the result is 0:
 * the number of bytes sent. A negative one would be an error to the callers that look at it. */
GCOOKIE_EXPORTED int gnutls_dtls_cookie_send(gnutls_datum_t *key, void *client_data,
                                             size_t client_data_size,
                                             gnutls_dtls_prestate_st *prestate,
                                             gnutls_transport_ptr_t ptr, gnutls_push_func push) {
    if (!gcookie_find_real()) {
        return GNUTLS_E_INTERNAL_ERROR;
    }
    const struct last before = last;
    last.what = NOTHING;
    const int is_ours = prestate != NULL && push != NULL && before.what != NOTHING &&
                        is_empty(prestate) && is_for(&before, client_data, client_data_size);
    if (is_ours && before.what == DISCARDED) {
        return 0;
    }
    const struct gcookie_ring *keys = gcookie_ring_now();
    gnutls_datum_t current = {keys != NULL ? (unsigned char *)keys->keys[0] : NULL, GCOOKIE_SIZE};
    gnutls_datum_t *signing = keys != NULL ? &current : key;
    if (!is_ours) {
        gcookie_add(&gcookie_shared->left_alone, 1);
        if (!gcookie_is_recording() || prestate == NULL || push == NULL) {
            return gcookie_real.send(signing, client_data, client_data_size, prestate, ptr, push);
        }
    }
    struct outgoing out = {.ptr = ptr, .push = push};
    gnutls_dtls_prestate_st numbers = *prestate;
    if (is_ours) {
        numbers.record_seq = before.record_seq[RECORD_SEQ_SIZE - 1];
        numbers.hsk_write_seq = before.message_seq;
        out.record_seq = before.record_seq;
    }
    const int result = gcookie_real.send(signing, client_data, client_data_size, &numbers, &out,
                                         push_with_all_bits);
    if (gcookie_is_recording()) {
        gcookie_record_send(signing, client_data, client_data_size, &numbers, result, out.pushed,
                            out.reply, out.reply_size);
    }
    return result;
}

static int verify_by(gnutls_datum_t *key, void *client_data, size_t client_data_size, void *message,
                     size_t message_size, gnutls_dtls_prestate_st *prestate, int *key_age) {
    const struct gcookie_ring *keys = gcookie_ring_now();
    int result = GNUTLS_E_BAD_COOKIE;
    const int tries = keys == NULL ? 1 : 2;
    for (int age = 0; age < tries && result == GNUTLS_E_BAD_COOKIE; age++) {
        const gnutls_dtls_prestate_st before = *prestate;
        gnutls_datum_t own = {keys != NULL ? (unsigned char *)keys->keys[age] : NULL, GCOOKIE_SIZE};
        gnutls_datum_t *with = keys != NULL ? &own : key;
        result = gcookie_real.verify(with, client_data, client_data_size, message, message_size,
                                     prestate);
        *key_age = age;
        if (gcookie_is_recording()) {
            gcookie_record_verify(with, client_data, client_data_size, message, message_size,
                                  &before, result, prestate);
        }
    }
    return result;
}

static int is_empty(const gnutls_dtls_prestate_st *prestate) {
    return prestate->record_seq == 0 && prestate->hsk_read_seq == 0 && prestate->hsk_write_seq == 0;
}

static void remember(int what, const void *client_data, size_t client_data_size,
                     const unsigned char *message, const struct gcookie_hello *hello) {
    if (client_data_size > sizeof last.client_data ||
        (client_data == NULL && client_data_size > 0)) {
        return; /* left alone */
    }
    last.what = what;
    last.client_data_size = client_data_size;
    if (client_data_size > 0) {
        memcpy(last.client_data, client_data, client_data_size);
    }
    if (hello != NULL) {
        last.message_seq = hello->message_seq;
        memcpy(last.record_seq, message + RECORD_SEQ_OFFSET, RECORD_SEQ_SIZE);
    }
}

static int is_for(const struct last *of, const void *client_data, size_t client_data_size) {
    return of->client_data_size == client_data_size &&
           (client_data_size == 0 ||
            (client_data != NULL && memcmp(of->client_data, client_data, client_data_size) == 0));
}
