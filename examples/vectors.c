/* The vectors of the cookie functions, run on the libgnutls that this is linked with:
 *
 *     gnutls-cookie vectors --format c -o dtls-cookie-vectors.h
 *     cc -I. -o vectors examples/vectors.c $(pkg-config --cflags --libs gnutls)
 *     ./vectors
 *
 * Prints each vector that is answered otherwise; exit code 0 where there is none. */
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "dtls-cookie-vectors.h"

static const struct dtls_cookie_vector *asked;
static unsigned char reply[256];
static size_t reply_size;
static unsigned pushes;

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    (void)ptr;
    pushes++;
    reply_size = size < sizeof reply ? size : sizeof reply;
    memcpy(reply, data, reply_size);
    return asked->push_all ? (ssize_t)size : (ssize_t)asked->pushed;
}

static int right(const struct dtls_cookie_vector *one) {
    gnutls_datum_t key = {(unsigned char *)one->key, (unsigned)one->key_size};
    gnutls_dtls_prestate_st prestate;
    int result;

    asked = one;
    reply_size = pushes = 0;
    prestate.record_seq = one->before[0];
    prestate.hsk_read_seq = one->before[1];
    prestate.hsk_write_seq = one->before[2];
    if (one->operation == DTLS_COOKIE_VERIFY)
        result = gnutls_dtls_cookie_verify(&key, (void *)one->client_data, one->client_data_size,
                                           (void *)one->message, one->message_size, &prestate);
    else
        result = gnutls_dtls_cookie_send(&key, (void *)one->client_data, one->client_data_size,
                                         &prestate, NULL, push);
    return result == one->result && prestate.record_seq == one->after[0] &&
           prestate.hsk_read_seq == one->after[1] && prestate.hsk_write_seq == one->after[2] &&
           pushes == (one->reply != NULL) && reply_size == one->reply_size &&
           (reply_size == 0 || memcmp(reply, one->reply, reply_size) == 0);
}

int main(void) {
    unsigned wrong = 0, number, left = 0;
    for (number = 0; number < DTLS_COOKIE_VECTORS; number++) {
        const struct dtls_cookie_vector *one = &dtls_cookie_vectors[number];
        if ((ssize_t)one->pushed != one->pushed) { /* a narrower ssize_t than it needs */
            left++;
        } else if (!right(one)) {
            printf("vector %u, %s (%s)\n", one->tc_id, one->name, one->flag);
            wrong++;
        }
    }
    printf("libgnutls %s: %u vectors, %u answered otherwise, %u left out\n",
           gnutls_check_version(NULL), number - left, wrong, left);
    return wrong != 0;
}
