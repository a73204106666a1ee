/* What transport.c calls in Python, for programs without Python: the gate needs none of it. */
#include "transport.h"

#include <stdlib.h>

ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size);

ssize_t gcookie_py_push(uintptr_t handle, const void *data, size_t size) {
    (void)handle, (void)data, (void)size;
    abort();
}
