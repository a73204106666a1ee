/* Where libgnutls' cookie functions meet Python: a gnutls_push_func whose gnutls_transport_ptr_t
 * carries an integer handle, never a Python pointer; and one that needs no Python at all. */
#ifndef GNUTLS_COOKIE_TRANSPORT_H
#define GNUTLS_COOKIE_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <gnutls/gnutls.h>
#include <gnutls/dtls.h>

/* The first libgnutls with PSK identities that may hold zero bytes, and the first after 3.6.2 whose
 * client does not send a random of zeros (GNUTLS-SA-2020-03-31). */
#define GCOOKIE_OLDEST_LIBGNUTLS "3.6.13"
#if GNUTLS_VERSION_NUMBER < 0x03060d
#error "gnutls-cookie needs the headers of libgnutls 3.6.13 or later"
#endif

/* A handshake header, its body and a record header around it (RFC 6347 4.1, 4.2.1, 4.2.2). */
enum { GCOOKIE_HELLO_VERIFY_REQUEST_SIZE = 44 };

/* The next handle: a number above 0 that was never given in this process; 0 once all are given.
 * From any thread and any interpreter. */
uintptr_t gcookie_next_handle(void);

/* Adds 1 and gives the sum; 0, and nothing added, where the counter is at its end. */
uintptr_t gcookie_count_up(uintptr_t *counter);

/* gnutls_push_func over the handle table. A handle that is not lent gives -1. */
ssize_t gcookie_push(gnutls_transport_ptr_t ptr, const void *data, size_t size);

/* Memory that libgnutls frees itself, and memory that it allocated. 0, or GNUTLS_E_MEMORY_ERROR. */
int gcookie_datum_copy(gnutls_datum_t *out, const void *data, unsigned int size);
void gcookie_free(void *pointer);

/* The capture push: a gnutls_push_func whose gnutls_transport_ptr_t is a struct gcookie_capture.
 * Copies one datagram of at most `capacity` bytes; a longer one is refused with -1, nothing
 * written. */
struct gcookie_capture {
    unsigned char *data;
    size_t capacity;
    size_t size;
};
ssize_t gcookie_capture_push(gnutls_transport_ptr_t ptr, const void *data, size_t size);

/* The two cookie functions with the datum built here, so that a call from Python allocates nothing.
 * key_size is at most INT_MAX (lib/dtls.c passes it on as an int); the caller has checked it. */
int gcookie_send(const void *key, unsigned int key_size, const void *client_data,
                 size_t client_data_size, gnutls_dtls_prestate_st *prestate, uintptr_t handle);
int gcookie_reply(const void *key, unsigned int key_size, const void *client_data,
                  size_t client_data_size, gnutls_dtls_prestate_st *prestate, unsigned char *reply,
                  size_t reply_capacity);
int gcookie_verify(const void *key, unsigned int key_size, const void *client_data,
                   size_t client_data_size, const void *message, size_t message_size,
                   gnutls_dtls_prestate_st *prestate);

#endif
