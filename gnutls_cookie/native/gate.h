/* The gate: one datagram in, one verdict out, for a DTLS server that keeps no state before a cookie
 * came back (RFC 6347, 4.2.1). libgnutls makes every cookie and judges every cookie; the gate adds
 * the strict reading of the ClientHello, the echo of its two sequences, and a second key. */
#ifndef GCOOKIE_GATE_H
#define GCOOKIE_GATE_H

#include <stddef.h>
#include <stdint.h>
#ifndef __bpf__ /* in the kernel there is no libgnutls, only the strict reading: xdp/gate.bpf.c */
#include <gnutls/gnutls.h>
#include <gnutls/dtls.h>
#endif

/* lib/dtls.c: COOKIE_SIZE, and the whole HelloVerifyRequest of gnutls_dtls_cookie_send. */
#define GCOOKIE_SIZE 16
#define GCOOKIE_REPLY_SIZE 44
#define GCOOKIE_KEY_CAPACITY 64

/* Why a datagram is passed over in silence. The checks are made in this order, the first that fails
 * is the reason; gate.c names the RFC's section at each. */
enum gcookie_reason {
    GCOOKIE_OK = 0,               /* a ClientHello with its cookie field: not discarded */
    GCOOKIE_RECORD_HEADER = 1,    /* no whole record header */
    GCOOKIE_CONTENT_TYPE = 2,     /* the record is not a handshake record */
    GCOOKIE_RECORD_VERSION = 3,   /* neither feff, fefd nor 0100 */
    GCOOKIE_EPOCH = 4,            /* epoch is not 0 */
    GCOOKIE_RECORD_LENGTH = 5,    /* the record is longer than the datagram, or than 2**14 */
    GCOOKIE_HANDSHAKE_HEADER = 6, /* no whole handshake header in the record */
    GCOOKIE_HANDSHAKE_TYPE = 7,   /* not a ClientHello */
    GCOOKIE_MESSAGE_SEQ = 8,      /* above 255: the reply can echo 8 bits only */
    GCOOKIE_FRAGMENT_OFFSET = 9,  /* not the fragment that holds the cookie field */
    GCOOKIE_FRAGMENT_LENGTH = 10, /* disagrees with the record's or the message's length */
    GCOOKIE_TRAILING_DATA = 11,   /* something follows a whole ClientHello */
    GCOOKIE_SESSION_ID = 12,      /* session id of more than 32 bytes */
    GCOOKIE_COOKIE_FIELD = 13,    /* the cookie field is not inside this fragment */
    GCOOKIE_INTERNAL = 14, /* libgnutls could not make a cookie; or a key size above its capacity */
};

enum gcookie_kind {
    GCOOKIE_DISCARD = 0, /* silence; `reason` says why */
    GCOOKIE_CHALLENGE =
        1,                /* send the 44 bytes of `reply` back; `presented` says if a cookie came */
    GCOOKIE_VERIFIED = 2, /* `prestate` is for gnutls_dtls_prestate_set; `key_age` says which key */
};

/* What the gate needs to know of a ClientHello. The cookie lies inside the datagram. */
struct gcookie_hello {
    uint64_t record_seq;      /* 48 bits */
    unsigned int message_seq; /* 0..255 */
    size_t cookie_offset;     /* of the cookie's first byte, from the start of the datagram */
    size_t cookie_size;       /* 0..255 */
};

struct gcookie_key {
    unsigned char data[GCOOKIE_KEY_CAPACITY];
    unsigned int size; /* 1..64; in `previous`, 0 stands for no key */
};

struct gcookie_keys {
    struct gcookie_key current;  /* signs and verifies */
    struct gcookie_key previous; /* verifies only */
};

/* Reads a datagram as a ClientHello, or as its first fragment. Returns an enum gcookie_reason; only
 * with GCOOKIE_OK is *hello written. `datagram` may be NULL if `size` is 0. */
int gcookie_parse(const uint8_t *datagram, size_t size, struct gcookie_hello *hello);

#ifndef __bpf__
/* A field that its kind has no use for is 0, the reply's bytes too. */
struct gcookie_verdict {
    int kind;      /* enum gcookie_kind */
    int reason;    /* enum gcookie_reason; GCOOKIE_OK unless discarded */
    int presented; /* challenge: 1 if the ClientHello carried a cookie, of whatever size */
    int key_age;   /* verified: 0 current key, 1 previous key */
    gnutls_dtls_prestate_st prestate;
    unsigned char reply[GCOOKIE_REPLY_SIZE];
};

/* Judges one datagram. `client_data` is what identifies the client (its address; may be NULL if its
 * size is 0). *out is written whole and must overlap no other argument. No allocation, no state, no
 * I/O of its own, and the verdict depends on nothing but the arguments. */
void gcookie_gate(const struct gcookie_keys *keys, const void *client_data, size_t client_data_size,
                  const uint8_t *datagram, size_t size, struct gcookie_verdict *out);
#endif

#endif
