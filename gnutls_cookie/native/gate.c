/* The gate: reads one datagram strictly, lets libgnutls make the cookie, and answers with one
 * verdict. The comments that begin with @ are ACSL contracts: checks/prove shows that they hold,
 * and that every memory access is valid, for all datagrams of 0..65535 bytes. */
#include "gate.h"
#ifndef __bpf__
#include "transport.h"
#endif

/* RFC 6347, 4.1: type 1, version 2, epoch 2, sequence_number 6, length 2. */
#define RECORD_HEADER_SIZE 13u
/* RFC 6347, 4.2.2: msg_type 1, length 3, message_seq 2, fragment_offset 3, fragment_length 3. */
#define HANDSHAKE_HEADER_SIZE 12u
/* RFC 6347, 4.2.1: client_version 2, random 32; the session id's length byte is next. */
#define SESSION_ID_FIELD 34u
#define BODY (RECORD_HEADER_SIZE + HANDSHAKE_HEADER_SIZE)

#define MAX_RECORD_LENGTH 16384u    /* RFC 5246, 6.2.1 */
#define MAX_SESSION_ID 32u          /* RFC 5246, 7.4.1.2 */
#define MAX_ECHOED_MESSAGE_SEQ 255u /* lib/dtls.c writes one byte of hsk_write_seq */
#define CONTENT_HANDSHAKE 22u
#define TYPE_CLIENT_HELLO 1u

/* A HelloVerifyRequest: both headers, server_version 2, the cookie's length 1, the cookie. */
#define REPLY_COOKIE 28u

/* What judge() answers when no key fits, and when libgnutls made no reply. */
enum { NO_KEY = -1, NO_REPLY = -2 };

static inline uint32_t be16(const uint8_t *bytes);
static inline uint32_t be24(const uint8_t *bytes);
static inline uint64_t be48(const uint8_t *bytes);
#ifndef __bpf__
static int judge(const struct gcookie_keys *keys, const void *client_data, size_t client_data_size,
                 const uint8_t *datagram, size_t size, const struct gcookie_hello *hello,
                 unsigned char reply[GCOOKIE_REPLY_SIZE]);
static int make_reply(const struct gcookie_key *key, const void *client_data,
                      size_t client_data_size, const struct gcookie_hello *hello,
                      unsigned char reply[GCOOKIE_REPLY_SIZE]);
static int accepts(const struct gcookie_key *key, const void *client_data, size_t client_data_size,
                   const uint8_t *datagram, size_t size, const struct gcookie_hello *hello,
                   const unsigned char reply[GCOOKIE_REPLY_SIZE]);
static void echo_record_seq(unsigned char reply[GCOOKIE_REPLY_SIZE], const uint8_t *datagram);
static void clear(struct gcookie_verdict *out);
static void clear_reply(struct gcookie_verdict *out);
#endif

/*@ // The specification of the strict reading, check by check.
  @ logic integer be16_at{L}(uint8_t *p, integer at) = p[at] * 256 + p[at + 1];
  @ logic integer be24_at{L}(uint8_t *p, integer at) =
  @     p[at] * 65536 + p[at + 1] * 256 + p[at + 2];
  @ logic integer be48_at{L}(uint8_t *p, integer at) =
  @     be24_at(p, at) * 16777216 + be24_at(p, at + 3);
  @
  @ logic integer reason_of{L}(uint8_t *p, integer size) =
  @     size < 13 ? GCOOKIE_RECORD_HEADER
  @   : p[0] != 22 ? GCOOKIE_CONTENT_TYPE
  @   : !(be16_at(p, 1) == 0xfeff || be16_at(p, 1) == 0xfefd || be16_at(p, 1) == 0x0100)
  @         ? GCOOKIE_RECORD_VERSION
  @   : be16_at(p, 3) != 0 ? GCOOKIE_EPOCH
  @   : 13 + be16_at(p, 11) > size || be16_at(p, 11) > 16384 ? GCOOKIE_RECORD_LENGTH
  @   : be16_at(p, 11) < 12 ? GCOOKIE_HANDSHAKE_HEADER
  @   : p[13] != 1 ? GCOOKIE_HANDSHAKE_TYPE
  @   : be16_at(p, 17) > 255 ? GCOOKIE_MESSAGE_SEQ
  @   : be24_at(p, 19) != 0 ? GCOOKIE_FRAGMENT_OFFSET
  @   : 12 + be24_at(p, 22) != be16_at(p, 11) || be24_at(p, 22) > be24_at(p, 14)
  @         ? GCOOKIE_FRAGMENT_LENGTH
  @   : be24_at(p, 22) == be24_at(p, 14) && size != 13 + be16_at(p, 11) ? GCOOKIE_TRAILING_DATA
  @   : be24_at(p, 22) >= 35 && p[59] > 32 ? GCOOKIE_SESSION_ID
  @   : be24_at(p, 22) < 36 || be24_at(p, 22) < 36 + p[59]
  @         || be24_at(p, 22) < 36 + p[59] + p[60 + p[59]] ? GCOOKIE_COOKIE_FIELD
  @   : GCOOKIE_OK;
  @
  @ // And what is read where it comes to GCOOKIE_OK.
  @ predicate cookie_of{L}(struct gcookie_hello *hello, uint8_t *p, integer size) =
  @     hello->cookie_offset == 61 + p[59] && hello->cookie_size == p[60 + p[59]] &&
  @     hello->cookie_offset + hello->cookie_size <= size;
  @
  @ predicate readable{L}(uint8_t *bytes, integer size) =
  @     \valid_read(bytes + (0 .. size - 1));
  @*/

/*@ requires readable(datagram, size) && \valid(hello);
  @ requires \separated(hello, datagram + (0 .. size - 1));
  @ assigns *hello;
  @ ensures \result == reason_of(datagram, size);
  @ ensures \result == GCOOKIE_OK ==> hello->record_seq == be48_at(datagram, 5);
  @ ensures \result == GCOOKIE_OK ==> hello->message_seq == be16_at(datagram, 17);
  @ ensures \result == GCOOKIE_OK ==> cookie_of(hello, datagram, size);
  @ ensures \result != GCOOKIE_OK ==> *hello == \old(*hello);
  @*/
int gcookie_parse(const uint8_t *datagram, size_t size, struct gcookie_hello *hello) {
    if (size < RECORD_HEADER_SIZE) {
        return GCOOKIE_RECORD_HEADER;
    }
    if (datagram[0] != CONTENT_HANDSHAKE) {
        return GCOOKIE_CONTENT_TYPE;
    }
    /* DTLS 1.0, 1.2 and the 0.9 of before the RFCs. A 1.2 client may write any of the first two
     * here, whatever it offers inside; anything else is another protocol. */
    const uint32_t version = be16(datagram + 1);
    if (version != 0xfeffu && version != 0xfefdu && version != 0x0100u) {
        return GCOOKIE_RECORD_VERSION;
    }
    /* 4.1: epoch 0 until a ChangeCipherSpec. */
    if (be16(datagram + 3) != 0) {
        return GCOOKIE_EPOCH;
    }
    const uint32_t record_length = be16(datagram + 11);
    if (record_length > size - RECORD_HEADER_SIZE || record_length > MAX_RECORD_LENGTH) {
        return GCOOKIE_RECORD_LENGTH;
    }

    if (record_length < HANDSHAKE_HEADER_SIZE) {
        return GCOOKIE_HANDSHAKE_HEADER;
    }
    if (datagram[13] != TYPE_CLIENT_HELLO) {
        return GCOOKIE_HANDSHAKE_TYPE;
    }
    const uint32_t message_seq = be16(datagram + 17);
    if (message_seq > MAX_ECHOED_MESSAGE_SEQ) {
        return GCOOKIE_MESSAGE_SEQ;
    }
    /* 4.2.3: a hello may come in fragments; the first alone holds the cookie, the others get no
     * answer of their own. */
    if (be24(datagram + 19) != 0) {
        return GCOOKIE_FRAGMENT_OFFSET;
    }
    const uint32_t length = be24(datagram + 14);
    const uint32_t fragment_length = be24(datagram + 22);
    if (HANDSHAKE_HEADER_SIZE + fragment_length != record_length || fragment_length > length) {
        return GCOOKIE_FRAGMENT_LENGTH;
    }
    /* 4.2.4: a ClientHello is a flight of its own. Behind a first fragment the next may follow. */
    if (fragment_length == length && size != RECORD_HEADER_SIZE + record_length) {
        return GCOOKIE_TRAILING_DATA;
    }

    if (fragment_length < SESSION_ID_FIELD + 1) {
        return GCOOKIE_COOKIE_FIELD;
    }
    const uint32_t session_id_size = datagram[BODY + SESSION_ID_FIELD];
    if (session_id_size > MAX_SESSION_ID) {
        return GCOOKIE_SESSION_ID;
    }
    const uint32_t cookie_field = SESSION_ID_FIELD + 1 + session_id_size;
    if (fragment_length < cookie_field + 1) {
        return GCOOKIE_COOKIE_FIELD;
    }
    const uint32_t cookie_size = datagram[BODY + cookie_field];
    if (fragment_length < cookie_field + 1 + cookie_size) {
        return GCOOKIE_COOKIE_FIELD;
    }

    hello->record_seq = be48(datagram + 5);
    hello->message_seq = message_seq;
    hello->cookie_offset = BODY + cookie_field + 1;
    hello->cookie_size = cookie_size;
    return GCOOKIE_OK;
}

/* Products and sums, not shifts and ors: a prover sees through them, a compiler makes the same
 * code. */
/*@ requires readable(bytes, 2);
  @ assigns \nothing;
  @ ensures \result == be16_at(bytes, 0);
  @*/
static inline uint32_t be16(const uint8_t *bytes) {
    return bytes[0] * 256u + bytes[1];
}

/*@ requires readable(bytes, 3);
  @ assigns \nothing;
  @ ensures \result == be24_at(bytes, 0);
  @*/
static inline uint32_t be24(const uint8_t *bytes) {
    return bytes[0] * 65536u + bytes[1] * 256u + bytes[2];
}

/*@ requires readable(bytes, 6);
  @ assigns \nothing;
  @ ensures \result == be48_at(bytes, 0);
  @*/
static inline uint64_t be48(const uint8_t *bytes) {
    return be24(bytes) * UINT64_C(16777216) + be24(bytes + 3);
}

#ifndef __bpf__

/*@ requires \valid_read(keys) && \valid_read((char *)client_data + (0 .. client_data_size - 1));
  @ requires readable(datagram, size) && \valid(out);
  @ requires \separated(out, keys, datagram + (0 .. size - 1),
  @                     (char *)client_data + (0 .. client_data_size - 1));
  @ assigns *out;
  @ ensures out->kind == GCOOKIE_DISCARD || out->kind == GCOOKIE_CHALLENGE || out->kind ==
  GCOOKIE_VERIFIED;
  @ ensures out->kind == GCOOKIE_DISCARD <==> out->reason != GCOOKIE_OK;
  @ ensures out->reason == reason_of{Pre}(datagram, size) ||
  @         (out->reason == GCOOKIE_INTERNAL && reason_of{Pre}(datagram, size) == GCOOKIE_OK);
  @
  @ ensures out->kind == GCOOKIE_CHALLENGE ==> size > GCOOKIE_REPLY_SIZE;
  @ ensures out->kind == GCOOKIE_CHALLENGE ==>
  @     pushed(&out->reply[0], GCOOKIE_REPLY_SIZE, GCOOKIE_REPLY_SIZE);
  @ ensures out->presented ==
  @     (out->kind == GCOOKIE_CHALLENGE && \at(datagram[60 + datagram[59]], Pre) > 0 ? 1 : 0);
  @ ensures out->kind == GCOOKIE_CHALLENGE ==>
  @     \forall integer i; 5 <= i <= 10 ==> out->reply[i] == \at(datagram[i], Pre);
  @ ensures out->kind != GCOOKIE_CHALLENGE ==>
  @     \forall integer i; 0 <= i < GCOOKIE_REPLY_SIZE ==> out->reply[i] == 0;
  @
  @ ensures out->kind == GCOOKIE_VERIFIED ==>
  @     \at(datagram[60 + datagram[59]], Pre) == GCOOKIE_SIZE &&
  @     be48_at{Pre}(datagram, 5) <= UINT32_MAX;
  @ ensures out->kind == GCOOKIE_VERIFIED ==>
  @     out->prestate.record_seq == be48_at{Pre}(datagram, 5) &&
  @     out->prestate.hsk_read_seq == be16_at{Pre}(datagram, 17) &&
  @     out->prestate.hsk_write_seq == \max(be16_at{Pre}(datagram, 17), 1) - 1;
  @ ensures out->kind == GCOOKIE_VERIFIED ==>
  @     (out->key_age == 0 &&
  @      judged_genuine(&keys->current.data[0], keys->current.size, (char *)client_data,
  @                     client_data_size, (char *)datagram, size)) ||
  @     (out->key_age == 1 && keys->previous.size > 0 &&
  @      judged_genuine(&keys->previous.data[0], keys->previous.size, (char *)client_data,
  @                     client_data_size, (char *)datagram, size));
  @ ensures out->kind != GCOOKIE_VERIFIED ==>
  @     out->key_age == 0 && out->prestate.record_seq == 0 && out->prestate.hsk_read_seq == 0 &&
  @     out->prestate.hsk_write_seq == 0;
  @*/
void gcookie_gate(const struct gcookie_keys *keys, const void *client_data, size_t client_data_size,
                  const uint8_t *datagram, size_t size, struct gcookie_verdict *out) {
    struct gcookie_hello hello;
    const int reason = gcookie_parse(datagram, size, &hello);
    clear(out);
    if (reason != GCOOKIE_OK) {
        out->reason = reason;
        return;
    }

    const int key_age =
        judge(keys, client_data, client_data_size, datagram, size, &hello, out->reply);
    /*@ assert \forall integer i; 5 <= i <= 10 ==> datagram[i] == \at(datagram[i], Pre); */
    if (key_age == NO_KEY) {
        out->kind = GCOOKIE_CHALLENGE;
        out->presented = hello.cookie_size > 0;
        echo_record_seq(out->reply, datagram);
        return;
    }
    clear_reply(out);
    if (key_age == NO_REPLY) {
        out->reason = GCOOKIE_INTERNAL;
        return;
    }
    out->kind = GCOOKIE_VERIFIED;
    out->key_age = key_age;
    out->prestate.record_seq = (unsigned int)hello.record_seq;
    out->prestate.hsk_read_seq = hello.message_seq;
    /* The session answers with message_seq hsk_write_seq + 1 (lib/dtls.c): the number of the hello
     * that it answers. An ordinary exchange has message_seq 1 here, and so the stock 0. */
    out->prestate.hsk_write_seq = (hello.message_seq > 0 ? hello.message_seq : 1) - 1;
}

/* Makes the reply of the current key, and says which key the presented cookie was made with: 0 the
 * current, 1 the previous, else NO_KEY, or NO_REPLY on an error of libgnutls. One HMAC serves both
 * ends, the reply to send and the cookie to compare. */
/*@ requires \valid_read(keys) && \valid_read((char *)client_data + (0 .. client_data_size - 1));
  @ requires readable(datagram, size) && \valid_read(hello);
  @ requires hello->cookie_offset + hello->cookie_size <= size;
  @ requires \valid(reply + (0 .. GCOOKIE_REPLY_SIZE - 1));
  @ requires \separated(reply + (0 .. GCOOKIE_REPLY_SIZE - 1), keys, hello, datagram + (0 .. size -
  1),
  @                     (char *)client_data + (0 .. client_data_size - 1));
  @ assigns reply[0 .. GCOOKIE_REPLY_SIZE - 1];
  @ ensures \result == 0 || \result == 1 || \result == NO_KEY || \result == NO_REPLY;
  @ ensures \result != NO_REPLY ==> pushed(reply, GCOOKIE_REPLY_SIZE, GCOOKIE_REPLY_SIZE);
  @ ensures \result == 0 || \result == 1 ==>
  @     hello->cookie_size == GCOOKIE_SIZE && hello->record_seq <= UINT32_MAX;
  @ ensures \result == 0 ==>
  @     judged_genuine(&keys->current.data[0], keys->current.size, (char *)client_data,
  @                    client_data_size, (char *)datagram, size);
  @ ensures \result == 1 ==> keys->previous.size > 0 &&
  @     judged_genuine(&keys->previous.data[0], keys->previous.size, (char *)client_data,
  @                    client_data_size, (char *)datagram, size);
  @*/
static int judge(const struct gcookie_keys *keys, const void *client_data, size_t client_data_size,
                 const uint8_t *datagram, size_t size, const struct gcookie_hello *hello,
                 unsigned char reply[GCOOKIE_REPLY_SIZE]) {
    if (!make_reply(&keys->current, client_data, client_data_size, hello, reply)) {
        return NO_REPLY;
    }
    /* A prestate carries 32 bits of the record sequence: beyond that the client cannot be handed
     * over, and is challenged forever. */
    if (hello->cookie_size != GCOOKIE_SIZE || hello->record_seq > UINT32_MAX) {
        return NO_KEY;
    }
    if (accepts(&keys->current, client_data, client_data_size, datagram, size, hello, reply)) {
        return 0;
    }
    if (keys->previous.size == 0) {
        return NO_KEY;
    }
    unsigned char older[GCOOKIE_REPLY_SIZE];
    if (!make_reply(&keys->previous, client_data, client_data_size, hello, older)) {
        return NO_REPLY;
    }
    if (accepts(&keys->previous, client_data, client_data_size, datagram, size, hello, older)) {
        return 1;
    }
    return NO_KEY;
}

/* The HelloVerifyRequest that libgnutls makes with this key. Returns 0 on an error of libgnutls.
 * message_seq is echoed, not the 0 of the stock recipe: a client whose cookie died with its key
 * waits for the next number. */
/*@ requires \valid_read(key) && \valid_read((char *)client_data + (0 .. client_data_size - 1));
  @ requires \valid_read(hello) && \valid(reply + (0 .. GCOOKIE_REPLY_SIZE - 1));
  @ requires \separated(reply + (0 .. GCOOKIE_REPLY_SIZE - 1), key, hello,
  @                     (char *)client_data + (0 .. client_data_size - 1));
  @ assigns reply[0 .. GCOOKIE_REPLY_SIZE - 1];
  @ ensures \result == 0 || \result == 1;
  @ ensures \result == 1 ==> key->size <= GCOOKIE_KEY_CAPACITY;
  @ ensures \result == 1 ==> pushed(reply, GCOOKIE_REPLY_SIZE, GCOOKIE_REPLY_SIZE);
  @*/
static int make_reply(const struct gcookie_key *key, const void *client_data,
                      size_t client_data_size, const struct gcookie_hello *hello,
                      unsigned char reply[GCOOKIE_REPLY_SIZE]) {
    if (key->size > GCOOKIE_KEY_CAPACITY) {
        return 0;
    }
    /* libgnutls takes key and client_data without const, and only reads them. */
    gnutls_datum_t datum = {(unsigned char *)key->data, key->size};
    gnutls_dtls_prestate_st prestate = {(unsigned int)(hello->record_seq % UINT64_C(4294967296)), 0,
                                        hello->message_seq};
    struct gcookie_capture capture = {reply, GCOOKIE_REPLY_SIZE, 0};
    const int sent = gnutls_dtls_cookie_send(&datum, (void *)client_data, client_data_size,
                                             &prestate, &capture, gcookie_capture_push);
    return sent == GCOOKIE_REPLY_SIZE && capture.size == GCOOKIE_REPLY_SIZE;
}

/* Whether the hello's cookie, of GCOOKIE_SIZE bytes, is the one in `reply`, and libgnutls agrees.
 * libgnutls is the judge, but computes the HMAC again and compares by memcmp: it is asked only
 * where the constant-time compare says yes. */
/*@ requires \valid_read(key) && key->size <= GCOOKIE_KEY_CAPACITY;
  @ requires \valid_read((char *)client_data + (0 .. client_data_size - 1));
  @ requires readable(datagram, size);
  @ requires \valid_read(hello) && hello->cookie_offset + GCOOKIE_SIZE <= size;
  @ requires readable(reply, GCOOKIE_REPLY_SIZE);
  @ assigns \nothing;
  @ ensures \result == 0 || \result == 1;
  @ ensures \result == 1 ==>
  @     \forall integer i; 0 <= i < GCOOKIE_SIZE ==>
  @         reply[REPLY_COOKIE + i] == datagram[hello->cookie_offset + i];
  @ ensures \result == 1 ==>
  @     judged_genuine(&key->data[0], key->size, (char *)client_data, client_data_size,
  @                    (char *)datagram, size);
  @*/
static int accepts(const struct gcookie_key *key, const void *client_data, size_t client_data_size,
                   const uint8_t *datagram, size_t size, const struct gcookie_hello *hello,
                   const unsigned char reply[GCOOKIE_REPLY_SIZE]) {
    if (gnutls_memcmp(reply + REPLY_COOKIE, datagram + hello->cookie_offset, GCOOKIE_SIZE) != 0) {
        return 0;
    }
    /* libgnutls takes key, client_data and message without const, and only reads them. */
    gnutls_datum_t datum = {(unsigned char *)key->data, key->size};
    gnutls_dtls_prestate_st low_bytes = {0, 0, 0};
    return gnutls_dtls_cookie_verify(&datum, (void *)client_data, client_data_size,
                                     (void *)datagram, size, &low_bytes) == 0;
}

/* 4.2.1: the HelloVerifyRequest has the record sequence of the ClientHello. All 48 bits: lib/dtls.c
 * writes the lowest byte only. */
/*@ requires \valid(reply + (0 .. GCOOKIE_REPLY_SIZE - 1)) && readable(datagram,
  RECORD_HEADER_SIZE);
  @ requires \separated(reply + (0 .. GCOOKIE_REPLY_SIZE - 1),
  @                     datagram + (0 .. RECORD_HEADER_SIZE - 1));
  @ assigns reply[5 .. 10];
  @ ensures \forall integer i; 5 <= i <= 10 ==> reply[i] == \old(datagram[i]);
  @*/
static void echo_record_seq(unsigned char reply[GCOOKIE_REPLY_SIZE], const uint8_t *datagram) {
    reply[5] = datagram[5];
    reply[6] = datagram[6];
    reply[7] = datagram[7];
    reply[8] = datagram[8];
    reply[9] = datagram[9];
    reply[10] = datagram[10];
}

/*@ requires \valid(out);
  @ assigns out->kind, out->reason, out->presented, out->key_age, out->prestate.record_seq,
  @         out->prestate.hsk_read_seq, out->prestate.hsk_write_seq,
  @         out->reply[0 .. GCOOKIE_REPLY_SIZE - 1];
  @ ensures out->kind == GCOOKIE_DISCARD && out->reason == GCOOKIE_OK && out->presented == 0 &&
  @         out->key_age == 0;
  @ ensures out->prestate.record_seq == 0 && out->prestate.hsk_read_seq == 0 &&
  @         out->prestate.hsk_write_seq == 0;
  @ ensures \forall integer i; 0 <= i < GCOOKIE_REPLY_SIZE ==> out->reply[i] == 0;
  @*/
static void clear(struct gcookie_verdict *out) {
    out->kind = GCOOKIE_DISCARD;
    out->reason = GCOOKIE_OK;
    out->presented = 0;
    out->key_age = 0;
    out->prestate.record_seq = 0;
    out->prestate.hsk_read_seq = 0;
    out->prestate.hsk_write_seq = 0;
    clear_reply(out);
}

/*@ requires \valid(out);
  @ assigns out->reply[0 .. GCOOKIE_REPLY_SIZE - 1];
  @ ensures \forall integer i; 0 <= i < GCOOKIE_REPLY_SIZE ==> out->reply[i] == 0;
  @*/
static void clear_reply(struct gcookie_verdict *out) {
    /*@ loop invariant 0 <= at <= GCOOKIE_REPLY_SIZE;
      @ loop invariant \forall integer i; 0 <= i < at ==> out->reply[i] == 0;
      @ loop assigns at, out->reply[0 .. GCOOKIE_REPLY_SIZE - 1];
      @ loop variant GCOOKIE_REPLY_SIZE - at;
      @*/
    for (unsigned int at = 0; at < GCOOKIE_REPLY_SIZE; at++) {
        out->reply[at] = 0;
    }
}

#endif
