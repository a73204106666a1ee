/* The push that reaches Python by integer handle, the capture push, and the cookie functions. */
#include "transport.h"

#include <string.h>

/* Defined by the generated module: extern "Python+C" in ffi.cdef. */
extern ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size);

uintptr_t gcookie_count_up(uintptr_t *counter) {
    uintptr_t last = __atomic_load_n(counter, __ATOMIC_RELAXED);
    do {
        if (last == UINTPTR_MAX)
            return 0;
    } while (!__atomic_compare_exchange_n(counter, &last, last + 1, 1, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return last + 1;
}

uintptr_t gcookie_next_handle(void) {
    static uintptr_t last;
    return gcookie_count_up(&last);
}

ssize_t gcookie_push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    return gcookie_py_push((uintptr_t)ptr, data, size);
}

int gcookie_datum_copy(gnutls_datum_t *out, const void *data, unsigned int size) {
    unsigned char *copy = gnutls_malloc(size > 0 ? size : 1);
    if (copy == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    memcpy(copy, data, size);
    out->data = copy;
    out->size = size;
    return 0;
}

void gcookie_free(void *pointer) {
    gnutls_free(pointer);
}

ssize_t gcookie_capture_push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct gcookie_capture *capture = ptr;
    if (size > capture->capacity)
        return -1;
    memcpy(capture->data, data, size);
    capture->size = size;
    return (ssize_t)size;
}

/* libgnutls takes key, client_data and message through pointers to non-const and only reads them
 * (lib/dtls.c). */
static gnutls_datum_t datum(const void *data, unsigned int size) {
    gnutls_datum_t result = {(unsigned char *)data, size};
    return result;
}

int gcookie_send(const void *key, unsigned int key_size, const void *client_data,
                 size_t client_data_size, gnutls_dtls_prestate_st *prestate, uintptr_t handle) {
    gnutls_datum_t key_datum = datum(key, key_size);
    return gnutls_dtls_cookie_send(&key_datum, (void *)client_data, client_data_size, prestate,
                                   (gnutls_transport_ptr_t)handle, gcookie_push);
}

int gcookie_reply(const void *key, unsigned int key_size, const void *client_data,
                  size_t client_data_size, gnutls_dtls_prestate_st *prestate, unsigned char *reply,
                  size_t reply_capacity) {
    gnutls_datum_t key_datum = datum(key, key_size);
    struct gcookie_capture capture = {reply, reply_capacity, 0};
    return gnutls_dtls_cookie_send(&key_datum, (void *)client_data, client_data_size, prestate,
                                   &capture, gcookie_capture_push);
}

int gcookie_verify(const void *key, unsigned int key_size, const void *client_data,
                   size_t client_data_size, const void *message, size_t message_size,
                   gnutls_dtls_prestate_st *prestate) {
    gnutls_datum_t key_datum = datum(key, key_size);
    return gnutls_dtls_cookie_verify(&key_datum, (void *)client_data, client_data_size,
                                     (void *)message, message_size, prestate);
}
