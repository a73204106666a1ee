/* The guard before libgnutls' DTLS reassembly. */
#include "guard.h"
#include "costs.h"

#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { /* RFC 5246 7.4, RFC 6347 4.3.2, RFC 5077 3.3, RFC 6066 8 */
       CLIENT_HELLO = 1,
       SERVER_HELLO = 2,
       HELLO_VERIFY_REQUEST = 3,
       NEW_SESSION_TICKET = 4,
       CERTIFICATE = 11,
       SERVER_KEY_EXCHANGE = 12,
       CERTIFICATE_REQUEST = 13,
       SERVER_HELLO_DONE = 14,
       CERTIFICATE_VERIFY = 15,
       CLIENT_KEY_EXCHANGE = 16,
       FINISHED = 20,
       CERTIFICATE_STATUS = 22,
};
enum { WARNING = 1, CLOSE_NOTIFY = 0 }; /* RFC 5246 7.2 */
enum { KIB = 1 << 10 };
enum { VERIFY_DATA = 12 }; /* bytes of a Finished (RFC 5246 7.4.9) */
/* Bytes of a piece of a reassembled message: with its header 512, the smallest max_fragment_length
 * (RFC 6066 4). */
enum { PIECE = 512 - GCOOKIE_MESSAGE_HEADER_SIZE };

static uint32_t read_16(const unsigned char *at) {
    return at[0] * 256u + at[1];
}

static uint32_t read_24(const unsigned char *at) {
    return (at[0] * 256u + at[1]) * 256u + at[2];
}

static void write_16(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

static void write_24(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 16);
    write_16(at + 1, value);
}

/* --- what may come ---------------------------------------------------------------------------- */

size_t gcookie_record_size(const unsigned char *datagram, size_t size) {
    size_t record;
    if (size < GCOOKIE_RECORD_HEADER_SIZE)
        return 0;
    record = GCOOKIE_RECORD_HEADER_SIZE + read_16(datagram + GCOOKIE_RECORD_HEADER_SIZE - 2);
    return record <= size ? record : 0;
}

size_t gcookie_fragment_read(const unsigned char *messages, size_t size,
                             struct gcookie_fragment *out) {
    if (size < GCOOKIE_MESSAGE_HEADER_SIZE)
        return 0;
    out->type = messages[0];
    out->length = read_24(messages + 1);
    out->seq = read_16(messages + 4);
    out->offset = read_24(messages + 6);
    out->size = read_24(messages + 9);
    out->data = messages + GCOOKIE_MESSAGE_HEADER_SIZE;
    if (out->size > size - GCOOKIE_MESSAGE_HEADER_SIZE || out->offset > out->length ||
        out->size > out->length - out->offset)
        return 0;
    if (out->size == 0 && out->length > 0)
        return 0; /* brings nothing */
    return GCOOKIE_MESSAGE_HEADER_SIZE + (size_t)out->size;
}

long gcookie_message_limit(int is_server, int greeted, unsigned int type) {
    if (is_server) {
        if (!greeted)
            return type == CLIENT_HELLO ? 16 * KIB : -1;
        switch (type) {
        case CERTIFICATE:
            return 48 * KIB;
        case CLIENT_KEY_EXCHANGE: /* a PSK identity has up to 65535 bytes (RFC 4279 2) */
            return 68 * KIB;
        case CERTIFICATE_VERIFY:
            return 16 * KIB;
        default:
            return -1;
        }
    }
    switch (type) {
    case HELLO_VERIFY_REQUEST:
        return greeted ? -1 : 2 + 1 + 255; /* RFC 6347 4.3.2 */
    case SERVER_HELLO:
        return greeted ? -1 : 16 * KIB;
    case CERTIFICATE:
    case CERTIFICATE_REQUEST: /* names every authority that the server trusts */
    case CERTIFICATE_STATUS:
    case NEW_SESSION_TICKET:
        return 48 * KIB;
    case SERVER_KEY_EXCHANGE:
        return 16 * KIB;
    case SERVER_HELLO_DONE:
        return 0;
    default:
        return -1;
    }
}

/* --- a record under keys ---------------------------------------------------------------------- */

/* A whole Finished, whatever its number and its verify_data. */
static int is_finished(const unsigned char *header) {
    return header[0] == FINISHED && read_24(header + 1) == VERIFY_DATA &&
           read_24(header + 6) == 0 && read_24(header + 9) == VERIFY_DATA;
}

enum { FINISHED_SIZE = GCOOKIE_MESSAGE_HEADER_SIZE + VERIFY_DATA };

/* RFC 5288, RFC 6655: the nonce's last eight bytes are in the record; RFC 7905: none is. */
static int opens_with_aead(const unsigned char *record, size_t size,
                           gnutls_cipher_algorithm_t cipher, const gnutls_datum_t *key,
                           const gnutls_datum_t *iv) {
    const size_t in_record = cipher == GNUTLS_CIPHER_CHACHA20_POLY1305 ? 0 : 8;
    const size_t tag = gnutls_cipher_get_tag_size(cipher);
    const unsigned char *body = record + GCOOKIE_RECORD_HEADER_SIZE;
    unsigned char nonce[12], aad[13], plain[FINISHED_SIZE];
    size_t plain_size = sizeof plain;
    gnutls_aead_cipher_hd_t handle;
    int code;

    if (size != GCOOKIE_RECORD_HEADER_SIZE + in_record + FINISHED_SIZE + tag ||
        iv->size != sizeof nonce - in_record)
        return 0;
    memcpy(nonce, iv->data, iv->size);
    if (in_record > 0) {
        memcpy(nonce + iv->size, body, in_record);
    } else {
        for (size_t at = 0; at < 8; at++)
            nonce[4 + at] ^= record[3 + at];
    }
    memcpy(aad, record + 3, 8); /* epoch and sequence_number */
    memcpy(aad + 8, record, 3); /* type and version */
    write_16(aad + 11, FINISHED_SIZE);
    if (gnutls_aead_cipher_init(&handle, cipher, key) < 0)
        return 0;
    code = gnutls_aead_cipher_decrypt(handle, nonce, sizeof nonce, aad, sizeof aad, tag,
                                      body + in_record, FINISHED_SIZE + tag, plain, &plain_size);
    gnutls_aead_cipher_deinit(handle);
    return code >= 0 && plain_size == FINISHED_SIZE && is_finished(plain);
}

/* CBC (RFC 5246 6.2.3.2, RFC 7366). Only the header is deciphered: no look at the padding, whose
 * time could tell of it. A record of the least possible size has no room for another fragment: less
 * than one block behind the Finished, and GCOOKIE_MESSAGE_HEADER_SIZE bytes would need more than
 * that with every MAC that there is (asserted below by their sizes: 16, 20, 32, 48). */
static int opens_with_cbc(const unsigned char *record, size_t size,
                          gnutls_cipher_algorithm_t cipher, size_t mac, int mac_is_outside,
                          const gnutls_datum_t *key) {
    const size_t block = gnutls_cipher_get_block_size(cipher);
    const size_t least = FINISHED_SIZE + 1 + (mac_is_outside ? 0 : mac); /* padding_length is one */
    const unsigned char *body = record + GCOOKIE_RECORD_HEADER_SIZE;
    unsigned char header[16];
    gnutls_cipher_hd_t handle;
    gnutls_datum_t iv;
    size_t inside;
    int code;

    if ((block != 8 && block != 16) || gnutls_cipher_get_iv_size(cipher) != block)
        return 0;
    inside = (least + block - 1) / block * block;
    if (inside - least >= GCOOKIE_MESSAGE_HEADER_SIZE ||
        size != GCOOKIE_RECORD_HEADER_SIZE + block + inside + (mac_is_outside ? mac : 0))
        return 0;
    iv.data = (unsigned char *)body;
    iv.size = (unsigned int)block;
    if (gnutls_cipher_init(&handle, cipher, key, &iv) < 0)
        return 0;
    code = gnutls_cipher_decrypt2(handle, body + block, sizeof header, header, sizeof header);
    gnutls_cipher_deinit(handle);
    return code >= 0 && is_finished(header);
}

/* Whether a handshake record under the keys that are read with at present holds a Finished alone;
 * -1 where there are none yet. */
static int opens_as_finished(gnutls_session_t session, const unsigned char *record, size_t size) {
    const gnutls_cipher_algorithm_t cipher = gnutls_cipher_get(session);
    const gnutls_mac_algorithm_t mac = gnutls_mac_get(session);
    gnutls_datum_t mac_key, iv, key;
    unsigned char seq[8];

    if (mac == GNUTLS_MAC_NULL || mac == GNUTLS_MAC_UNKNOWN ||
        gnutls_record_get_state(session, 1, &mac_key, &iv, &key, seq) < 0)
        return -1;
    if (mac == GNUTLS_MAC_AEAD)
        return opens_with_aead(record, size, cipher, &key, &iv);
    if (cipher == GNUTLS_CIPHER_NULL)
        return size == GCOOKIE_RECORD_HEADER_SIZE + FINISHED_SIZE + gnutls_hmac_get_len(mac) &&
               is_finished(record + GCOOKIE_RECORD_HEADER_SIZE);
    return opens_with_cbc(record, size, cipher, gnutls_hmac_get_len(mac),
                          gnutls_session_etm_status(session) != 0, &key);
}

/* --- fragments -------------------------------------------------------------------------------- */

/* Bytes of memory for a message: its data, and a bit for each byte that has arrived. */
static uint32_t room_for(uint32_t length) {
    return length + length / 8 + 1;
}

static void release(struct gcookie_guard *guard, struct gcookie_message *message) {
    if (message->data == NULL)
        return;
    guard->kept -= room_for(message->length);
    free(message->data);
    message->data = NULL;
}

static void forget_early(struct gcookie_guard *guard) {
    free(guard->early);
    guard->early = NULL;
    guard->early_size = 0;
}

void gcookie_guard_clear(struct gcookie_guard *guard) {
    for (size_t at = 0; at < GCOOKIE_MESSAGES; at++)
        release(guard, &guard->messages[at]);
    forget_early(guard);
}

static uint32_t there(const struct gcookie_message *message) {
    return message->length - message->missing;
}

/* The message to drop in favour of one with this number: the farthest ahead, and of those the one
 * of which the least has arrived. NULL if all come before it. */
static struct gcookie_message *weakest(struct gcookie_guard *guard, uint32_t seq) {
    struct gcookie_message *found = NULL;
    for (size_t at = 0; at < GCOOKIE_MESSAGES; at++) {
        struct gcookie_message *one = &guard->messages[at];
        if (one->data != NULL && one->seq >= seq &&
            (found == NULL || one->seq > found->seq ||
             (one->seq == found->seq && there(one) < there(found))))
            found = one;
    }
    return found;
}

/* A place for a message whose first fragment has arrived; NULL if there is none. */
static struct gcookie_message *place_for(struct gcookie_guard *guard,
                                         const struct gcookie_fragment *fragment) {
    const uint32_t room = room_for(fragment->length);
    struct gcookie_message *place;

    if (room > GCOOKIE_MOST_KEPT)
        return NULL;
    for (;;) {
        place = NULL;
        for (size_t at = 0; at < GCOOKIE_MESSAGES && place == NULL; at++)
            if (guard->messages[at].data == NULL)
                place = &guard->messages[at];
        if (place != NULL && room <= GCOOKIE_MOST_KEPT - guard->kept)
            break;
        place = weakest(guard, fragment->seq);
        if (place == NULL)
            return NULL;
        release(guard, place);
    }
    place->data = calloc(1, room);
    if (place->data == NULL)
        return NULL;
    guard->kept += room;
    place->length = place->missing = fragment->length;
    place->seq = fragment->seq;
    place->type = fragment->type;
    return place;
}

/* A whole message that is dropped, as one that is too long: whoever forges it keeps no genuine one
 * out. */
static int is_costly(const struct gcookie_guard *guard, unsigned int type,
                     const unsigned char *data, size_t size) {
    return type == CERTIFICATE && gcookie_costs_certificates(data, size, guard->is_server);
}

static void keep(struct gcookie_guard *guard, const struct gcookie_fragment *fragment) {
    struct gcookie_message *message = NULL;
    unsigned char *bits;

    for (size_t at = 0; at < GCOOKIE_MESSAGES && message == NULL; at++) {
        struct gcookie_message *one = &guard->messages[at];
        if (one->data != NULL && one->seq == fragment->seq && one->type == fragment->type &&
            one->length == fragment->length)
            message = one;
    }
    if (message == NULL)
        message = place_for(guard, fragment);
    if (message == NULL) {
        guard->refused++;
        return;
    }
    if (message->missing == 0 && message->length > 0)
        return;
    bits = message->data + message->length;
    for (uint32_t at = 0; at < fragment->size; at++) {
        const uint32_t to = fragment->offset + at;
        const unsigned char bit = (unsigned char)(1u << (to % 8));
        if ((bits[to / 8] & bit) == 0) {
            bits[to / 8] |= bit;
            message->data[to] = fragment->data[at];
            message->missing--;
        }
    }
    if (message->missing == 0 && is_costly(guard, message->type, message->data, message->length)) {
        release(guard, message);
        guard->refused++;
    }
}

/* The next message in order, if it is complete. */
static const struct gcookie_message *whole(const struct gcookie_guard *guard) {
    for (size_t at = 0; at < GCOOKIE_MESSAGES; at++) {
        const struct gcookie_message *one = &guard->messages[at];
        if (one->data != NULL && one->seq == guard->next && one->missing == 0)
            return one;
    }
    return NULL;
}

int gcookie_guard_has_more(const struct gcookie_guard *guard) {
    return whole(guard) != NULL;
}

/* --- what passes ------------------------------------------------------------------------------ */

/* Writes the header of a record of epoch 0, numbered by us; its body is in place already. */
static size_t number(struct gcookie_guard *guard, unsigned char *out, unsigned int type,
                     size_t size) {
    uint64_t seq = guard->record_seq++;
    out[0] = (unsigned char)type;
    memcpy(out + 1, guard->version, 2);
    out[3] = out[4] = 0;
    for (int at = 10; at > 4; at--) {
        out[at] = (unsigned char)seq;
        seq >>= 8;
    }
    write_16(out + 11, (uint32_t)size);
    return GCOOKIE_RECORD_HEADER_SIZE + size;
}

/* The message `next` has been passed on completely. */
static void advance(struct gcookie_guard *guard, unsigned int type) {
    for (size_t at = 0; at < GCOOKIE_MESSAGES; at++)
        if (guard->messages[at].data != NULL && guard->messages[at].seq <= guard->next)
            release(guard, &guard->messages[at]);
    guard->next++;
    guard->passed = 0;
    if (type == CLIENT_HELLO || type == SERVER_HELLO)
        guard->greeted = 1; /* HelloVerifyRequest is not an answer yet */
}

/* One fragment for libgnutls; 0 where `out` is too small for it. */
static size_t pass(struct gcookie_guard *guard, const struct gcookie_fragment *fragment,
                   unsigned char *out, size_t capacity) {
    unsigned char *header = out + GCOOKIE_RECORD_HEADER_SIZE;
    const size_t size = GCOOKIE_MESSAGE_HEADER_SIZE + (size_t)fragment->size;

    if (size > UINT16_MAX || GCOOKIE_RECORD_HEADER_SIZE + size > capacity)
        return 0;
    header[0] = (unsigned char)fragment->type;
    write_24(header + 1, fragment->length);
    write_16(header + 4, fragment->seq);
    write_24(header + 6, fragment->offset);
    write_24(header + 9, fragment->size);
    if (fragment->size > 0)
        memcpy(header + GCOOKIE_MESSAGE_HEADER_SIZE, fragment->data, fragment->size);
    return number(guard, out, GCOOKIE_HANDSHAKE, size);
}

/* The next piece of a message that was gathered. The first has more than one byte, or all:
 * libgnutls takes a first fragment of one byte for a whole message when it allocates. */
static size_t pass_kept(struct gcookie_guard *guard, unsigned char *out, size_t capacity) {
    const struct gcookie_message *message = whole(guard);
    struct gcookie_fragment piece;
    unsigned int type;
    size_t size;

    if (message == NULL)
        return 0;
    type = message->type;
    piece.type = type;
    piece.length = message->length;
    piece.seq = message->seq;
    piece.offset = guard->passed;
    piece.size = message->length - guard->passed;
    if (piece.size > PIECE)
        piece.size = PIECE;
    piece.data = message->data + guard->passed;
    size = pass(guard, &piece, out, capacity);
    guard->passed += piece.size;
    if (size == 0)
        guard->refused++;
    if (size == 0 || guard->passed == piece.length)
        advance(guard, type);
    return size;
}

/* The first message of a flight: none can precede it, since the peer waits for our answer. */
static int is_first(unsigned int type) {
    return type == CLIENT_HELLO || type == SERVER_HELLO || type == HELLO_VERIFY_REQUEST;
}

/* The next message of the current record: passed on if it is complete and next in order, otherwise
 * kept. */
static size_t take_message(struct gcookie_guard *guard, struct gcookie_input *input,
                           unsigned char *out, size_t capacity) {
    struct gcookie_fragment fragment;
    const size_t used = gcookie_fragment_read(input->messages, input->messages_left, &fragment);
    size_t size;

    if (used == 0) {
        guard->refused++;
        input->messages_left = 0;
        return 0;
    }
    input->messages += used;
    input->messages_left -= used;
    if (fragment.seq < guard->next) {
        guard->heard = 1;
        return 0;
    }
    if (fragment.seq - guard->next >= GCOOKIE_MESSAGES ||
        (fragment.seq != guard->next && is_first(fragment.type)) ||
        (long)fragment.length >
            gcookie_message_limit(guard->is_server, guard->greeted, fragment.type)) {
        guard->refused++;
        return 0;
    }
    guard->heard = 1;
    if (fragment.seq != guard->next || fragment.size != fragment.length) {
        keep(guard, &fragment);
        return 0;
    }
    size = is_costly(guard, fragment.type, fragment.data, fragment.size)
               ? 0
               : pass(guard, &fragment, out, capacity);
    if (size == 0)
        guard->refused++;
    else
        advance(guard, fragment.type);
    return size;
}

/* An encrypted record: an alert, which libgnutls drops unless it decrypts, or a Finished. */
static size_t take_protected(struct gcookie_guard *guard, gnutls_session_t session,
                             const unsigned char *record, size_t size, unsigned char *out,
                             size_t capacity) {
    const int opens = record[0] == GCOOKIE_ALERT ? 1 : opens_as_finished(session, record, size);

    if (opens == 0 || size > capacity) {
        guard->unread |= opens == 0;
        guard->refused++;
        return 0;
    }
    if (opens < 0) { /* it arrived before the ChangeCipherSpec or an earlier message */
        if (size > GCOOKIE_MOST_EARLY)
            return 0;
        if (guard->early == NULL)
            guard->early = malloc(GCOOKIE_MOST_EARLY);
        if (guard->early != NULL) {
            memcpy(guard->early, record, size);
            guard->early_size = size;
        }
        return 0;
    }
    guard->heard = 1;
    memcpy(out, record, size);
    return size;
}

/* The record that arrived early, once libgnutls has the keys to read it. */
static size_t pass_early(struct gcookie_guard *guard, gnutls_session_t session, unsigned char *out,
                         size_t capacity) {
    size_t size = 0;
    int opens;

    if (guard->early == NULL || !guard->switched)
        return 0;
    opens = opens_as_finished(session, guard->early, guard->early_size);
    if (opens < 0)
        return 0;
    guard->unread |= opens == 0;
    if (opens > 0 && guard->early_size <= capacity) {
        size = guard->early_size;
        memcpy(out, guard->early, size);
    }
    forget_early(guard);
    return size;
}

/* The next record of the datagram: a handshake record is opened, others are passed on or refused.
 */
static size_t take_record(struct gcookie_guard *guard, gnutls_session_t session,
                          struct gcookie_input *input, unsigned char *out, size_t capacity) {
    const unsigned char *record = input->at;
    const size_t size = gcookie_record_size(record, input->left);
    const unsigned char *body = record + GCOOKIE_RECORD_HEADER_SIZE;
    size_t length;

    if (size == 0) {
        guard->refused++;
        input->left = 0;
        return 0;
    }
    input->at += size;
    input->left -= size;
    length = size - GCOOKIE_RECORD_HEADER_SIZE;
    if (read_16(record + 3) != 0)
        return record[0] == GCOOKIE_HANDSHAKE || record[0] == GCOOKIE_ALERT
                   ? take_protected(guard, session, record, size, out, capacity)
                   : 0; /* application data is too early, and dropped */
    memcpy(guard->version, record + 1, 2);
    switch (record[0]) {
    case GCOOKIE_HANDSHAKE:
        input->messages = body;
        input->messages_left = length;
        if (length == 0)
            guard->refused++;
        return 0;
    case GCOOKIE_CHANGE_CIPHER_SPEC:
        /* libgnutls queues each of them, so one is passed on. DTLS 0.9 has three bytes. */
        if ((length != 1 && (length != 3 || record[1] != 1)) || body[0] != 1) {
            guard->refused++;
            return 0;
        }
        guard->heard = guard->greeted;
        if (guard->switched || !guard->greeted)
            return 0;
        guard->switched = 1;
        break;
    case GCOOKIE_ALERT:
        if (length != 2) {
            guard->refused++;
            return 0;
        }
        /* Anybody can write one: a fatal alert ends the handshake, as RFC 5246 7.2.2 demands, and
         * so does a goodbye. Warnings change nothing, and libgnutls fails on some. Nor does an
         * alert mean anything to a server that nobody has greeted. */
        if ((body[0] == WARNING && body[1] != CLOSE_NOTIFY) ||
            (guard->is_server && !guard->greeted))
            return 0;
        break;
    default: /* nothing else comes without keys */
        guard->refused++;
        return 0;
    }
    if (size > capacity)
        return 0;
    memcpy(out + GCOOKIE_RECORD_HEADER_SIZE, body, length);
    return number(guard, out, record[0], length);
}

size_t gcookie_guard_next(struct gcookie_guard *guard, gnutls_session_t session,
                          struct gcookie_input *input, unsigned char *out, size_t capacity) {
    for (;;) {
        size_t size = pass_kept(guard, out, capacity);
        if (size == 0)
            size = pass_early(guard, session, out, capacity);
        if (size > 0)
            return size;
        if (input->messages_left > 0)
            size = take_message(guard, input, out, capacity);
        else if (input->left > 0)
            size = take_record(guard, session, input, out, capacity);
        else
            return 0;
        if (size > 0)
            return size;
    }
}
