/* What transport.c calls in Python, for programs without Python: the gate needs none of it. */
#include "transport.h"

#include <stdlib.h>

ssize_t gc_py_push(uintptr_t handle, const void *data, size_t size);
ssize_t gc_py_pull(uintptr_t handle, void *data, size_t size);
int gc_py_pull_timeout(uintptr_t handle, unsigned int milliseconds);
int gc_py_psk(uintptr_t handle, const char *username, gnutls_datum_t *key);

ssize_t gc_py_push(uintptr_t handle, const void *data, size_t size) {
    (void)handle, (void)data, (void)size;
    abort();
}

ssize_t gc_py_pull(uintptr_t handle, void *data, size_t size) {
    (void)handle, (void)data, (void)size;
    abort();
}

int gc_py_pull_timeout(uintptr_t handle, unsigned int milliseconds) {
    (void)handle, (void)milliseconds;
    abort();
}

int gc_py_psk(uintptr_t handle, const char *username, gnutls_datum_t *key) {
    (void)handle, (void)username, (void)key;
    abort();
}
