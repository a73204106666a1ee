/* What libgnutls may read before a handshake is complete. Until 3.8.13 its DTLS reassembly
 * (lib/buffers.c) can be overrun: by fragments of one message that do not agree, by empty
 * fragments, and by a first fragment of one byte. And each version allocates what a length field
 * says.
 *
 * So fragments are put together here, within bounds, and libgnutls is given one whole message at a
 * time, in order, each byte once. Records of epoch 0 are numbered anew: nothing protects their
 * numbers, and libgnutls' replay window would follow a forged one (RFC 6347 4.1.2.6). A record
 * under keys passes only where it holds a Finished and nothing else: whoever has the keys could
 * send fragments in there, too. */
#ifndef GNUTLS_COOKIE_GUARD_H
#define GNUTLS_COOKIE_GUARD_H

#include <stddef.h>
#include <stdint.h>
#include <gnutls/gnutls.h>

enum {
    GCOOKIE_CHANGE_CIPHER_SPEC = 20,
    GCOOKIE_ALERT = 21,
    GCOOKIE_HANDSHAKE = 22
}; /* RFC 5246 6.2.1 */
enum {
    GCOOKIE_RECORD_HEADER_SIZE =
        13, /* bytes; the last two are the record's length (RFC 6347 4.1) */
    GCOOKIE_MESSAGE_HEADER_SIZE = 12, /* bytes (RFC 6347 4.2.2) */
    GCOOKIE_MESSAGES = 8,             /* kept at once: a flight has no more */
    GCOOKIE_MOST_KEPT = 80
        << 10, /* bytes of messages kept: the longest one, and what is there of it */
    GCOOKIE_MOST_EARLY =
        128 /* bytes of a record with a Finished: 16 of IV and 80 with HMAC-SHA384 */
};

/* What is left of a datagram: whole records, and of the record that was taken last, messages. */
struct gcookie_input {
    const unsigned char *at;
    size_t left;
    const unsigned char *messages;
    size_t messages_left;
};

/* A piece of a handshake message (RFC 6347 4.2.2). */
struct gcookie_fragment {
    unsigned int type;
    uint32_t length; /* bytes of the whole message */
    uint32_t seq;
    uint32_t offset;
    uint32_t size;
    const unsigned char *data;
};

/* A message whose fragments are being gathered. Two that do not agree in length or type are two:
 * neither can keep the other from being complete. */
struct gcookie_message {
    unsigned char *data; /* `length` bytes, then one bit for each that is there; NULL: none */
    uint32_t length;
    uint32_t missing; /* bytes */
    uint32_t seq;
    unsigned int type;
};

struct gcookie_guard {
    int is_server;
    int greeted;     /* the peer's hello has passed */
    int switched;    /* its ChangeCipherSpec has passed */
    int unread;      /* 1: a record under the agreed keys did not open, as with other keys */
    int heard;       /* 1: the peer said something of its flight, new or again; for the caller */
    uint32_t next;   /* message_seq of the next message that may pass */
    uint32_t passed; /* bytes of it that have */
    uint64_t record_seq; /* of the next record of epoch 0 that passes */
    uint64_t refused;    /* records and fragments that break a rule: they were dropped */
    uint32_t kept;       /* bytes */
    unsigned char version[2];
    struct gcookie_message messages[GCOOKIE_MESSAGES];
    unsigned char *early; /* a record under keys that are not in use yet: the last one; or NULL */
    size_t early_size;
};

/* The fragment at the start of a handshake record's rest: its bytes, header included, with all
 * lengths within bounds; 0 where there is none. */
size_t gcookie_fragment_read(const unsigned char *messages, size_t size,
                             struct gcookie_fragment *out);

/* Bytes that a message of this type may have, -1 where the peer may send none: `greeted` as above.
 */
long gcookie_message_limit(int is_server, int greeted, unsigned int type);

/* Bytes at the start of a datagram that are one whole record; 0 where there is none. */
size_t gcookie_record_size(const unsigned char *datagram, size_t size);

/* The next record for gnutls_handshake: its bytes, copied to `out`; 0 where the input is used up.
 */
size_t gcookie_guard_next(struct gcookie_guard *guard, gnutls_session_t session,
                          struct gcookie_input *input, unsigned char *out, size_t capacity);

/* 1: gcookie_guard_next has something to give without any input. */
int gcookie_guard_has_more(const struct gcookie_guard *guard);

/* Forget what was kept. */
void gcookie_guard_clear(struct gcookie_guard *guard);

#endif
