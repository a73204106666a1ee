/* What a peer's certificates may cost. */
#include "costs.h"

#include <gnutls/abstract.h>
#include <stdint.h>

enum {
    /* A certificate has a hundred elements and one more for each of its names. Of a client: 15 ms
     * with the worst; of a server, which may have thousands of names, 250 ms. */
    MOST_OF_CLIENT = 1024,
    MOST_OF_SERVER = 4096,
    DEPTH = 6, /* of strings that hold DER: extensions have two, what is in them one or two more */
    /* As OpenSSL has it (OPENSSL_RSA_MAX_MODULUS_BITS, OPENSSL_RSA_MAX_PUBEXP_BITS). */
    MOST_BITS = 16384,
    MOST_EXPONENT_BYTES = 8,
};
enum { CONSTRUCTED = 0x20, BIT_STRING = 3, OCTET_STRING = 4, LONG_TAG = 0x1f }; /* X.690 8.1.2 */

static size_t read_24(const unsigned char *at) {
    return (at[0] * 256u + at[1]) * (size_t)256 + at[2];
}

/* Bytes of the identifier and length at `at`, and in *length those of the contents; 0: there are no
 * such. */
static size_t read_header(const unsigned char *at, size_t size, size_t *length) {
    size_t used = 1, more;
    if (size < 2)
        return 0;
    if ((at[0] & LONG_TAG) == LONG_TAG)
        while (used < size && (at[used++] & 0x80) != 0)
            ;
    if (used >= size)
        return 0;
    *length = at[used] & 0x7f;
    if (at[used++] <= 0x7f)
        return used;
    more = *length; /* 0: the contents end with an element of their own */
    if (more > sizeof(uint32_t) || more > size - used)
        return 0;
    for (*length = 0; more > 0; more--)
        *length = *length * 256 + at[used++];
    return used;
}

/* The elements of DER in these bytes, at all levels, up to the first thing that is none: libgnutls
 * does not read on, either. Strings of bytes are looked into, since extensions are some. */
static size_t count_elements(const unsigned char *at, size_t size, unsigned int depth) {
    size_t count = 0, length, used;
    while ((used = read_header(at, size, &length)) > 0) {
        const unsigned char tag = at[0];
        count++;
        at += used;
        size -= used;
        if ((tag & CONSTRUCTED) != 0)
            continue; /* what is in it comes next */
        if (length > size)
            break;
        if (depth > 0 && tag == OCTET_STRING)
            count += count_elements(at, length, depth - 1);
        else if (depth > 0 && tag == BIT_STRING && length > 0) /* the first byte counts bits */
            count += count_elements(at + 1, length - 1, depth - 1);
        at += length;
        size -= length;
    }
    return count;
}

int gcookie_costs_certificates(const unsigned char *body, size_t size, int is_server) {
    size_t count = 0;
    if (size < 3)
        return 0;
    body += 3; /* the length of all of them */
    size -= 3;
    while (size >= 3) {
        const size_t length = read_24(body);
        body += 3;
        size -= 3;
        if (length > size)
            break;
        count += 1 + count_elements(body, length, DEPTH);
        body += length;
        size -= length;
    }
    return count > (is_server ? MOST_OF_CLIENT : MOST_OF_SERVER);
}

static int is_long_exponent(gnutls_pubkey_t key) {
    gnutls_datum_t modulus = {NULL, 0}, exponent = {NULL, 0};
    unsigned int zeros = 0;
    int is_long;

    if (gnutls_pubkey_export_rsa_raw(key, &modulus, &exponent) < 0)
        return 1; /* no memory */
    while (zeros < exponent.size && exponent.data[zeros] == 0)
        zeros++;
    is_long = exponent.size - zeros > MOST_EXPONENT_BYTES;
    gnutls_free(modulus.data);
    gnutls_free(exponent.data);
    return is_long;
}

int gcookie_costs_key(gnutls_session_t session) {
    unsigned int number = 0, bits = 0;
    const gnutls_datum_t *const peers = gnutls_certificate_get_peers(session, &number);
    gnutls_pubkey_t key;
    int code, is_costly = 0;

    if (peers == NULL || number == 0)
        return 0;
    if (gnutls_pubkey_init(&key) < 0)
        return 1;
    if (gnutls_certificate_type_get2(session, GNUTLS_CTYPE_PEERS) == GNUTLS_CRT_RAWPK)
        code = gnutls_pubkey_import(key, peers, GNUTLS_X509_FMT_DER);
    else
        code = gnutls_pubkey_import_x509_raw(key, peers, GNUTLS_X509_FMT_DER, 0);
    if (code >= 0) { /* else no signature can be checked by it */
        code = gnutls_pubkey_get_pk_algorithm(key, &bits);
        is_costly = bits > MOST_BITS;
        if (!is_costly && (code == GNUTLS_PK_RSA || code == GNUTLS_PK_RSA_PSS))
            is_costly = is_long_exponent(key);
    }
    gnutls_pubkey_deinit(key);
    return is_costly;
}
