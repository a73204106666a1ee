/* The gate: reads one datagram strictly, lets libgnutls make the cookie, and answers with one
 * verdict. The comments that begin with @ are ACSL contracts: tests/prove shows that they hold, and
 * that every memory access is valid, for all datagrams of 0..65535 bytes. */
#include "gate.h"
#include "transport.h"

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

static inline uint32_t be16(const uint8_t *bytes);
static inline uint32_t be24(const uint8_t *bytes);
static int make_reply(const struct gc_key *key, const void *client_data, size_t client_data_size,
                      const struct gc_hello *hello, unsigned char reply[GC_REPLY_SIZE]);
static int accepts(const struct gc_key *key, const void *client_data, size_t client_data_size,
                   const uint8_t *datagram, size_t size, const struct gc_hello *hello,
                   const unsigned char reply[GC_REPLY_SIZE]);
static void set_discarded(struct gc_verdict *out, int reason);
static void set_verified(struct gc_verdict *out, const struct gc_hello *hello, int key_age);

/*@ // The specification of the strict reading, check by check.
  @ logic integer be16_at{L}(uint8_t *p, integer at) = p[at] * 256 + p[at + 1];
  @ logic integer be24_at{L}(uint8_t *p, integer at) =
  @     p[at] * 65536 + p[at + 1] * 256 + p[at + 2];
  @
  @ logic integer reason_of{L}(uint8_t *p, integer size) =
  @     size < 13 ? GC_RECORD_HEADER
  @   : p[0] != 22 ? GC_CONTENT_TYPE
  @   : !(be16_at(p, 1) == 0xfeff || be16_at(p, 1) == 0xfefd || be16_at(p, 1) == 0x0100)
  @         ? GC_RECORD_VERSION
  @   : be16_at(p, 3) != 0 ? GC_EPOCH
  @   : 13 + be16_at(p, 11) > size || be16_at(p, 11) > 16384 ? GC_RECORD_LENGTH
  @   : be16_at(p, 11) < 12 ? GC_HANDSHAKE_HEADER
  @   : p[13] != 1 ? GC_HANDSHAKE_TYPE
  @   : be16_at(p, 17) > 255 ? GC_MESSAGE_SEQ
  @   : be24_at(p, 19) != 0 ? GC_FRAGMENT_OFFSET
  @   : 12 + be24_at(p, 22) != be16_at(p, 11) || be24_at(p, 22) > be24_at(p, 14)
  @         ? GC_FRAGMENT_LENGTH
  @   : be24_at(p, 22) == be24_at(p, 14) && size != 13 + be16_at(p, 11) ? GC_TRAILING_DATA
  @   : be24_at(p, 22) >= 35 && p[59] > 32 ? GC_SESSION_ID
  @   : be24_at(p, 22) < 36 || be24_at(p, 22) < 36 + p[59]
  @         || be24_at(p, 22) < 36 + p[59] + p[60 + p[59]] ? GC_COOKIE_FIELD
  @   : GC_OK;
  @
  @ // And what is read where it comes to GC_OK.
  @ predicate is_hello_of{L}(struct gc_hello *hello, uint8_t *p, integer size) =
  @     hello->record_seq == be16_at(p, 5) * 4294967296 + be16_at(p, 7) * 65536 + be16_at(p, 9) &&
  @     hello->message_seq == p[18] && hello->cookie_offset == 61 + p[59] &&
  @     hello->cookie_size == p[60 + p[59]] && hello->cookie_offset + hello->cookie_size <= size;
  @
  @ predicate readable{L}(uint8_t *bytes, integer size) =
  @     \valid_read(bytes + (0 .. size - 1));
  @*/

/*@ requires readable(datagram, size) && \valid(hello);
  @ requires \separated(hello, datagram + (0 .. size - 1));
  @ assigns *hello;
  @ ensures \result == reason_of(datagram, size);
  @ ensures \result == GC_OK ==> is_hello_of(hello, datagram, size);
  @ ensures \result != GC_OK ==> *hello == \old(*hello);
  @*/
int gc_parse(const uint8_t *datagram, size_t size, struct gc_hello *hello) {
    if (size < RECORD_HEADER_SIZE) {
        return GC_RECORD_HEADER;
    }
    if (datagram[0] != CONTENT_HANDSHAKE) {
        return GC_CONTENT_TYPE;
    }
    /* DTLS 1.0, 1.2 and the 0.9 of before the RFCs. A 1.2 client may write any of the first two
     * here, whatever it offers inside; anything else is another protocol. */
    const uint32_t version = be16(datagram + 1);
    if (version != 0xfeffu && version != 0xfefdu && version != 0x0100u) {
        return GC_RECORD_VERSION;
    }
    /* 4.1: epoch 0 until a ChangeCipherSpec. */
    if (be16(datagram + 3) != 0) {
        return GC_EPOCH;
    }
    const uint32_t record_length = be16(datagram + 11);
    if (record_length > size - RECORD_HEADER_SIZE || record_length > MAX_RECORD_LENGTH) {
        return GC_RECORD_LENGTH;
    }

    if (record_length < HANDSHAKE_HEADER_SIZE) {
        return GC_HANDSHAKE_HEADER;
    }
    if (datagram[13] != TYPE_CLIENT_HELLO) {
        return GC_HANDSHAKE_TYPE;
    }
    const uint32_t message_seq = be16(datagram + 17);
    if (message_seq > MAX_ECHOED_MESSAGE_SEQ) {
        return GC_MESSAGE_SEQ;
    }
    /* 4.2.3: a hello may come in fragments; the first alone holds the cookie, the others get no
     * answer of their own. */
    if (be24(datagram + 19) != 0) {
        return GC_FRAGMENT_OFFSET;
    }
    const uint32_t length = be24(datagram + 14);
    const uint32_t fragment_length = be24(datagram + 22);
    if (HANDSHAKE_HEADER_SIZE + fragment_length != record_length || fragment_length > length) {
        return GC_FRAGMENT_LENGTH;
    }
    /* 4.2.4: a ClientHello is a flight of its own. Behind a first fragment the next may follow. */
    if (fragment_length == length && size != RECORD_HEADER_SIZE + record_length) {
        return GC_TRAILING_DATA;
    }

    if (fragment_length < SESSION_ID_FIELD + 1) {
        return GC_COOKIE_FIELD;
    }
    const uint32_t session_id_size = datagram[BODY + SESSION_ID_FIELD];
    if (session_id_size > MAX_SESSION_ID) {
        return GC_SESSION_ID;
    }
    const uint32_t cookie_field = SESSION_ID_FIELD + 1 + session_id_size;
    if (fragment_length < cookie_field + 1) {
        return GC_COOKIE_FIELD;
    }
    const uint32_t cookie_size = datagram[BODY + cookie_field];
    if (fragment_length < cookie_field + 1 + cookie_size) {
        return GC_COOKIE_FIELD;
    }

    hello->record_seq = be16(datagram + 5) * UINT64_C(4294967296) +
                        be16(datagram + 7) * UINT64_C(65536) + be16(datagram + 9);
    hello->message_seq = message_seq;
    hello->cookie_offset = BODY + cookie_field + 1;
    hello->cookie_size = cookie_size;
    return GC_OK;
}

/*@ requires \valid_read(keys) && readable((uint8_t *)client_data, client_data_size);
  @ requires readable(datagram, size) && \valid(out);
  @ requires \separated(out, keys, datagram + (0 .. size - 1),
  @                     (uint8_t *)client_data + (0 .. client_data_size - 1));
  @ assigns *out;
  @ ensures out->kind == GC_DISCARD || out->kind == GC_CHALLENGE || out->kind == GC_VERIFIED;
  @ ensures out->kind == GC_DISCARD <==> out->reason != GC_OK;
  @ ensures out->reason == reason_of(datagram, size) ||
  @         (out->reason == GC_INTERNAL && reason_of(datagram, size) == GC_OK);
  @
  @ ensures out->kind == GC_CHALLENGE ==> size > GC_REPLY_SIZE;
  @ ensures out->kind == GC_CHALLENGE ==> (out->presented == 1 <==> datagram[60 + datagram[59]] >
  0);
  @ ensures out->kind == GC_CHALLENGE ==>
  @     \forall integer i; 5 <= i <= 10 ==> out->reply[i] == datagram[i];
  @
  @ ensures out->kind == GC_VERIFIED ==>
  @     datagram[60 + datagram[59]] == GC_COOKIE_SIZE && be16_at(datagram, 5) == 0;
  @ ensures out->kind == GC_VERIFIED ==>
  @     out->prestate.record_seq == be16_at(datagram, 7) * 65536 + be16_at(datagram, 9) &&
  @     out->prestate.hsk_read_seq == datagram[18] &&
  @     out->prestate.hsk_write_seq == \max(datagram[18], 1) - 1;
  @ ensures out->kind == GC_VERIFIED ==>
  @     (out->key_age == 0 &&
  @      judged_genuine(&keys->current.data[0], keys->current.size, (uint8_t *)client_data,
  @                     client_data_size, datagram, size)) ||
  @     (out->key_age == 1 && keys->previous.size > 0 &&
  @      judged_genuine(&keys->previous.data[0], keys->previous.size, (uint8_t *)client_data,
  @                     client_data_size, datagram, size));
  @
  @ ensures out->kind != GC_CHALLENGE ==>
  @     out->presented == 0 && \forall integer i; 0 <= i < GC_REPLY_SIZE ==> out->reply[i] == 0;
  @ ensures out->kind != GC_VERIFIED ==>
  @     out->key_age == 0 && out->prestate.record_seq == 0 && out->prestate.hsk_read_seq == 0 &&
  @     out->prestate.hsk_write_seq == 0;
  @*/
void gc_gate(const struct gc_keys *keys, const void *client_data, size_t client_data_size,
             const uint8_t *datagram, size_t size, struct gc_verdict *out) {
    struct gc_hello hello;
    const int reason = gc_parse(datagram, size, &hello);
    set_discarded(out, reason);
    if (reason != GC_OK) {
        return;
    }

    /* One HMAC serves both ends: the reply to send, and the cookie to compare the presented one
     * with. It is made in place, and taken back where it turns out not to be needed. */
    if (!make_reply(&keys->current, client_data, client_data_size, &hello, out->reply)) {
        set_discarded(out, GC_INTERNAL);
        return;
    }
    /* A prestate carries 32 bits of the record sequence: beyond that the client cannot be handed
     * over, and is challenged for ever. */
    if (hello.cookie_size == GC_COOKIE_SIZE && hello.record_seq <= UINT32_MAX) {
        if (accepts(&keys->current, client_data, client_data_size, datagram, size, &hello,
                    out->reply)) {
            set_verified(out, &hello, 0);
            return;
        }
        if (keys->previous.size > 0) {
            unsigned char older[GC_REPLY_SIZE];
            if (!make_reply(&keys->previous, client_data, client_data_size, &hello, older)) {
                set_discarded(out, GC_INTERNAL);
                return;
            }
            if (accepts(&keys->previous, client_data, client_data_size, datagram, size, &hello,
                        older)) {
                set_verified(out, &hello, 1);
                return;
            }
        }
    }

    out->kind = GC_CHALLENGE;
    out->presented = hello.cookie_size > 0;
    /* 4.2.1: the HelloVerifyRequest has the record sequence of the ClientHello. All 48 bits:
     * lib/dtls.c writes the lowest byte only. */
    out->reply[5] = datagram[5];
    out->reply[6] = datagram[6];
    out->reply[7] = datagram[7];
    out->reply[8] = datagram[8];
    out->reply[9] = datagram[9];
    out->reply[10] = datagram[10];
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

/* The HelloVerifyRequest that libgnutls makes with this key. Returns 0 on an error of libgnutls.
 * message_seq is echoed, not the 0 of the stock recipe: a client whose cookie died with its key
 * waits for the next number. */
/*@ requires \valid_read(key) && readable((uint8_t *)client_data, client_data_size);
  @ requires \valid_read(hello) && \valid(reply + (0 .. GC_REPLY_SIZE - 1));
  @ requires \separated(reply + (0 .. GC_REPLY_SIZE - 1), key, hello,
  @                     (uint8_t *)client_data + (0 .. client_data_size - 1));
  @ assigns reply[0 .. GC_REPLY_SIZE - 1];
  @ ensures \result == 0 || \result == 1;
  @ ensures \result == 1 ==> key->size <= GC_KEY_CAPACITY;
  @*/
static int make_reply(const struct gc_key *key, const void *client_data, size_t client_data_size,
                      const struct gc_hello *hello, unsigned char reply[GC_REPLY_SIZE]) {
    if (key->size > GC_KEY_CAPACITY) {
        return 0;
    }
    /* libgnutls takes key and client_data without const, and only reads them. */
    gnutls_datum_t datum = {(unsigned char *)key->data, key->size};
    gnutls_dtls_prestate_st prestate = {(unsigned int)(hello->record_seq % UINT64_C(4294967296)), 0,
                                        hello->message_seq};
    struct gc_capture capture = {reply, GC_REPLY_SIZE, 0};
    const int sent = gnutls_dtls_cookie_send(&datum, (void *)client_data, client_data_size,
                                             &prestate, &capture, gc_capture_push);
    return sent == GC_REPLY_SIZE && capture.size == GC_REPLY_SIZE;
}

/* Whether the hello's cookie, of GC_COOKIE_SIZE bytes, is the one in `reply`, and libgnutls agrees.
 * libgnutls is the judge, but makes the HMAC anew and compares by memcmp: it is asked only where
 * the constant-time compare says yes. */
/*@ requires \valid_read(key) && key->size <= GC_KEY_CAPACITY;
  @ requires readable((uint8_t *)client_data, client_data_size) && readable(datagram, size);
  @ requires \valid_read(hello) && hello->cookie_offset + GC_COOKIE_SIZE <= size;
  @ requires readable(reply, GC_REPLY_SIZE);
  @ assigns \nothing;
  @ ensures \result == 0 || \result == 1;
  @ ensures \result == 1 ==>
  @     \forall integer i; 0 <= i < GC_COOKIE_SIZE ==>
  @         reply[REPLY_COOKIE + i] == datagram[hello->cookie_offset + i];
  @ ensures \result == 1 ==>
  @     judged_genuine(&key->data[0], key->size, (uint8_t *)client_data, client_data_size,
  @                    datagram, size);
  @*/
static int accepts(const struct gc_key *key, const void *client_data, size_t client_data_size,
                   const uint8_t *datagram, size_t size, const struct gc_hello *hello,
                   const unsigned char reply[GC_REPLY_SIZE]) {
    if (gnutls_memcmp(reply + REPLY_COOKIE, datagram + hello->cookie_offset, GC_COOKIE_SIZE) != 0) {
        return 0;
    }
    /* libgnutls takes key, client_data and message without const, and only reads them. */
    gnutls_datum_t datum = {(unsigned char *)key->data, key->size};
    gnutls_dtls_prestate_st low_bytes = {0, 0, 0};
    return gnutls_dtls_cookie_verify(&datum, (void *)client_data, client_data_size,
                                     (void *)datagram, size, &low_bytes) == 0;
}

/*@ requires \valid(out);
  @ assigns *out;
  @ ensures out->kind == GC_DISCARD && out->reason == reason && out->presented == 0 &&
  @         out->key_age == 0;
  @ ensures out->prestate.record_seq == 0 && out->prestate.hsk_read_seq == 0 &&
  @         out->prestate.hsk_write_seq == 0;
  @ ensures \forall integer i; 0 <= i < GC_REPLY_SIZE ==> out->reply[i] == 0;
  @*/
static void set_discarded(struct gc_verdict *out, int reason) {
    *out = (struct gc_verdict){.kind = GC_DISCARD, .reason = reason};
}

/* The session then answers with message_seq hsk_write_seq + 1 (lib/dtls.c): the number of the hello
 * that it answers. An ordinary exchange has message_seq 1 here, and so the stock 0. */
/*@ requires \valid(out) && \valid_read(hello) && \separated(out, hello);
  @ requires hello->record_seq <= UINT32_MAX && hello->message_seq <= MAX_ECHOED_MESSAGE_SEQ;
  @ assigns *out;
  @ ensures out->kind == GC_VERIFIED && out->reason == GC_OK && out->presented == 0 &&
  @         out->key_age == key_age;
  @ ensures out->prestate.record_seq == hello->record_seq &&
  @         out->prestate.hsk_read_seq == hello->message_seq &&
  @         out->prestate.hsk_write_seq == \max(hello->message_seq, 1) - 1;
  @ ensures \forall integer i; 0 <= i < GC_REPLY_SIZE ==> out->reply[i] == 0;
  @*/
static void set_verified(struct gc_verdict *out, const struct gc_hello *hello, int key_age) {
    *out = (struct gc_verdict){.kind = GC_VERIFIED, .key_age = key_age};
    out->prestate.record_seq = (unsigned int)hello->record_seq;
    out->prestate.hsk_read_seq = hello->message_seq;
    out->prestate.hsk_write_seq = (hello->message_seq > 0 ? hello->message_seq : 1) - 1;
}
