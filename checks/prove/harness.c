/* What CBMC reads beside gate.c and the capture push: a datagram of any bytes and any size up to
 * 65535, in memory of exactly that size; libgnutls' functions as callees that may answer anything,
 * and that check what they are given; and what must hold of every answer. */
#include "libgnutls.h"
#include "gate.h"
#include <stdlib.h>

#define MAX_DATAGRAM 65535u

/* A longer one than the HelloVerifyRequest: the push must refuse it. */
#define MAX_SENT 64u

/* Assumptions that exclude everything would prove everything. Built with REACH, the harness claims
 * that these states are never reached, and each of the claims has to fail. */
#ifdef REACH
#define reach(state, name) __CPROVER_assert(!(state), "unreached: " name)
#else
#define reach(state, name) (void)(state)
#endif

unsigned char nondet_uchar(void);
int nondet_int(void);
size_t nondet_size(void);

void prove_parse(void);
void prove_gate(void);

/* The arguments of gcookie_gate, for the callees to compare with, and what they answered. */
static struct gcookie_keys keys;
static unsigned char *client_data;
static size_t client_data_size;
static uint8_t *datagram;
static size_t size;
static int made_with_current, made_with_previous, whole_replies, equal_cookies, verified_by;

static uint32_t number(const uint8_t *bytes, size_t count);
static int reason_of(const uint8_t *p, size_t n);
static unsigned char *any_bytes(size_t count);
static int key_of(const gnutls_datum_t *key);

void prove_parse(void) {
    size = nondet_size();
    __CPROVER_assume(size <= MAX_DATAGRAM);
    datagram = any_bytes(size);

    struct gcookie_hello hello;
    const struct gcookie_hello before = hello;
    const int reason = gcookie_parse(datagram, size, &hello);

    __CPROVER_assert(reason == reason_of(datagram, size), "the first check that fails");
    if (reason == GCOOKIE_OK) {
        const size_t session_id_size = datagram[59];
        __CPROVER_assert(hello.record_seq ==
                             ((uint64_t)number(datagram + 5, 3) << 24) + number(datagram + 8, 3),
                         "record_seq");
        __CPROVER_assert(hello.message_seq == datagram[18] && datagram[17] == 0, "message_seq");
        __CPROVER_assert(hello.cookie_offset == 61 + session_id_size, "cookie_offset");
        __CPROVER_assert(hello.cookie_size == datagram[60 + session_id_size], "cookie_size");
        __CPROVER_assert(hello.cookie_offset + hello.cookie_size <= size, "inside the datagram");
        __CPROVER_assert(hello.cookie_offset + hello.cookie_size <= 13u + number(datagram + 11, 2),
                         "inside the record");
    } else {
        __CPROVER_assert(hello.record_seq == before.record_seq &&
                             hello.message_seq == before.message_seq &&
                             hello.cookie_offset == before.cookie_offset &&
                             hello.cookie_size == before.cookie_size,
                         "nothing written");
    }
    reach(reason == GCOOKIE_OK, "a ClientHello");
}

void prove_gate(void) {
    size = nondet_size();
    __CPROVER_assume(size <= MAX_DATAGRAM);
    datagram = any_bytes(size);
    client_data_size = nondet_size();
    __CPROVER_assume(client_data_size <= MAX_DATAGRAM);
    client_data = any_bytes(client_data_size);
    __CPROVER_havoc_object(&keys);
    made_with_current = made_with_previous = whole_replies = equal_cookies = 0;
    verified_by = -1;

    /* Whatever was in it before. */
    struct gcookie_verdict verdict;
    gcookie_gate(&keys, client_data, client_data_size, datagram, size, &verdict);

    const int reason = reason_of(datagram, size);
    __CPROVER_assert(verdict.kind == GCOOKIE_DISCARD || verdict.kind == GCOOKIE_CHALLENGE ||
                         verdict.kind == GCOOKIE_VERIFIED,
                     "kind");
    __CPROVER_assert((verdict.kind == GCOOKIE_DISCARD) == (verdict.reason != GCOOKIE_OK),
                     "a reason where discarded, and there alone");
    __CPROVER_assert(verdict.reason == reason ||
                         (verdict.reason == GCOOKIE_INTERNAL && reason == GCOOKIE_OK),
                     "reason");
    __CPROVER_assert(made_with_current + made_with_previous <= (reason == GCOOKIE_OK ? 2 : 0) &&
                         made_with_current <= 1 && made_with_previous <= 1,
                     "no HMAC for junk, and at most one for each key");
    __CPROVER_assert(verdict.kind == GCOOKIE_DISCARD ||
                         whole_replies == made_with_current + made_with_previous,
                     "a reply of libgnutls counts only if it is whole");

    if (verdict.kind == GCOOKIE_CHALLENGE) {
        __CPROVER_assert(size > GCOOKIE_REPLY_SIZE, "never longer than what came");
        __CPROVER_assert(verdict.presented == (datagram[60 + datagram[59]] > 0), "presented");
        for (unsigned int i = 5; i <= 10; i++) {
            __CPROVER_assert(verdict.reply[i] == datagram[i], "echo of the record sequence");
        }
        __CPROVER_assert(verified_by < 0, "a client that libgnutls accepts is not challenged");
    } else {
        __CPROVER_assert(verdict.presented == 0, "presented is of challenges alone");
        for (unsigned int i = 0; i < GCOOKIE_REPLY_SIZE; i++) {
            __CPROVER_assert(verdict.reply[i] == 0, "no reply where none is due");
        }
    }

    if (verdict.kind == GCOOKIE_VERIFIED) {
        const uint32_t message_seq = datagram[18];
        __CPROVER_assert(verdict.key_age == verified_by && verified_by >= 0,
                         "libgnutls said so, with that key");
        __CPROVER_assert(equal_cookies, "only where the constant-time compare said so too");
        __CPROVER_assert(datagram[60 + datagram[59]] == GCOOKIE_SIZE, "a whole cookie");
        __CPROVER_assert(number(datagram + 5, 2) == 0, "a record sequence of 32 bits");
        __CPROVER_assert(verdict.prestate.record_seq ==
                             number(datagram + 7, 2) * 65536 + number(datagram + 9, 2),
                         "record_seq handed over");
        __CPROVER_assert(verdict.prestate.hsk_read_seq == message_seq, "hsk_read_seq");
        __CPROVER_assert(verdict.prestate.hsk_write_seq == (message_seq == 0 ? 0 : message_seq - 1),
                         "hsk_write_seq");
    } else {
        __CPROVER_assert(verdict.key_age == 0 && verdict.prestate.record_seq == 0 &&
                             verdict.prestate.hsk_read_seq == 0 &&
                             verdict.prestate.hsk_write_seq == 0,
                         "no prestate where none is due");
    }
    reach(verdict.kind == GCOOKIE_CHALLENGE, "a challenge");
    reach(verdict.kind == GCOOKIE_VERIFIED && verdict.key_age == 0, "the current key");
    reach(verdict.kind == GCOOKIE_VERIFIED && verdict.key_age == 1, "the previous key");
    reach(verdict.reason == GCOOKIE_INTERNAL, "an error of libgnutls");
}

/* ---- the callees: any answer, and every argument checked
 * ----------------------------------------- */

int gnutls_dtls_cookie_send(gnutls_datum_t *key, void *data, size_t data_size,
                            gnutls_dtls_prestate_st *prestate, gnutls_transport_ptr_t ptr,
                            gnutls_push_func push_func) {
    if (key_of(key) == 0) {
        made_with_current++;
    } else {
        made_with_previous++;
    }
    __CPROVER_assert(data == client_data && data_size == client_data_size, "send: client_data");
    __CPROVER_assert(__CPROVER_r_ok(prestate, sizeof *prestate), "send: prestate");
    __CPROVER_assert(prestate->record_seq ==
                             number(datagram + 7, 2) * 65536 + number(datagram + 9, 2) &&
                         prestate->hsk_read_seq == 0 && prestate->hsk_write_seq == datagram[18],
                     "send: both sequences of the hello");
    __CPROVER_assert(push_func == gcookie_capture_push, "send: push");
    if (nondet_int()) {
        return nondet_int();
    }
    unsigned char sent[MAX_SENT];
    const size_t sent_size = nondet_size();
    __CPROVER_assume(sent_size <= MAX_SENT);
    const ssize_t pushed = gcookie_capture_push(ptr, sent, sent_size);
    __CPROVER_assert(sent_size <= GCOOKIE_REPLY_SIZE ? pushed == (ssize_t)sent_size : pushed < 0,
                     "push: all or nothing");
    const int code = nondet_int();
    whole_replies += sent_size == GCOOKIE_REPLY_SIZE && code == GCOOKIE_REPLY_SIZE;
    return code;
}

int gnutls_memcmp(const void *s1, const void *s2, size_t n) {
    __CPROVER_assert(n == GCOOKIE_SIZE, "memcmp: the size of a cookie");
    __CPROVER_assert(__CPROVER_r_ok(s1, n), "memcmp: the reply's cookie");
    __CPROVER_assert(__CPROVER_r_ok(s2, n), "memcmp: the presented cookie");
    __CPROVER_assert(s2 == datagram + 61 + datagram[59], "memcmp: the cookie field");
    const int differ = nondet_int();
    equal_cookies = !differ;
    return differ;
}

int gnutls_dtls_cookie_verify(gnutls_datum_t *key, void *data, size_t data_size, void *message,
                              size_t message_size, gnutls_dtls_prestate_st *prestate) {
    const int age = key_of(key);
    __CPROVER_assert(data == client_data && data_size == client_data_size, "verify: client_data");
    __CPROVER_assert(message == datagram && message_size == size, "verify: the whole datagram");
    __CPROVER_assert(equal_cookies, "verify: asked only where the cookies are equal");
    const int code = nondet_int();
    if (code == 0) {
        prestate->record_seq = nondet_uchar();
        prestate->hsk_read_seq = nondet_uchar();
        prestate->hsk_write_seq = 0;
        verified_by = age;
    }
    return code;
}

/* ---- helpers
 * ------------------------------------------------------------------------------------- */

/* Which of the two keys a datum is: 0 the current, 1 the previous. */
static int key_of(const gnutls_datum_t *key) {
    const struct gcookie_key *is = key->data == keys.current.data ? &keys.current : &keys.previous;
    __CPROVER_assert(key->data == is->data && key->size == is->size, "one of the two keys");
    __CPROVER_assert(key->size <= sizeof is->data && __CPROVER_r_ok(key->data, key->size),
                     "a key that can be read");
    __CPROVER_assert(is == &keys.current || key->size > 0, "a previous key that is there");
    return is == &keys.previous;
}

/* Memory of exactly this size, of any content; for none at all also NULL. */
static unsigned char *any_bytes(size_t count) {
    if (count == 0 && nondet_int()) {
        return NULL;
    }
    unsigned char *bytes = malloc(count);
    __CPROVER_assume(bytes != NULL);
    return bytes;
}

static uint32_t number(const uint8_t *bytes, size_t count) {
    uint32_t value = bytes[0];
    if (count > 1) {
        value = value << 8 | bytes[1];
    }
    if (count > 2) {
        value = value << 8 | bytes[2];
    }
    return value;
}

/* The strict reading once more, written as a list and from the end of the fragment backwards; it
 * may assume nothing of gcookie_parse. */
static int reason_of(const uint8_t *p, size_t n) {
    if (n < 13)
        return GCOOKIE_RECORD_HEADER;
    if (p[0] != 0x16)
        return GCOOKIE_CONTENT_TYPE;
    if (!(p[1] == 0xfe && (p[2] == 0xff || p[2] == 0xfd)) && !(p[1] == 1 && p[2] == 0))
        return GCOOKIE_RECORD_VERSION;
    if ((p[3] | p[4]) != 0)
        return GCOOKIE_EPOCH;
    const size_t record_end = 13 + (size_t)number(p + 11, 2);
    if (record_end > n || record_end > 13 + 16384)
        return GCOOKIE_RECORD_LENGTH;
    if (record_end < 25)
        return GCOOKIE_HANDSHAKE_HEADER;
    if (p[13] != 1)
        return GCOOKIE_HANDSHAKE_TYPE;
    if (p[17] != 0)
        return GCOOKIE_MESSAGE_SEQ;
    if ((p[19] | p[20] | p[21]) != 0)
        return GCOOKIE_FRAGMENT_OFFSET;
    const size_t message_end = 25 + (size_t)number(p + 14, 3);
    const size_t fragment_end = 25 + (size_t)number(p + 22, 3);
    if (fragment_end != record_end || message_end < fragment_end)
        return GCOOKIE_FRAGMENT_LENGTH;
    if (message_end == fragment_end && n > record_end)
        return GCOOKIE_TRAILING_DATA;
    if (fragment_end > 59 && p[59] > 32)
        return GCOOKIE_SESSION_ID;
    if (fragment_end <= 59 || fragment_end <= 60u + p[59] ||
        fragment_end < 61u + p[59] + p[60 + p[59]])
        return GCOOKIE_COOKIE_FIELD;
    return GCOOKIE_OK;
}
