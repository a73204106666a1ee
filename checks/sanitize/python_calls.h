/* For ThreadSanitizer over the extension, in a Python that is not built with it
 * (python_threads.sh): put before all C. What one call into C wrote is seen by every call that
 * begins after it has ended, since Python passes objects from thread to thread by atomics of its
 * own, which ThreadSanitizer does not see. So a race is found where two calls are under way at
 * once. */
#ifndef GCOOKIE_PYTHON_CALLS_H
#define GCOOKIE_PYTHON_CALLS_H

#include <Python.h>
#include <sanitizer/tsan_interface.h>

static char gcookie_calls;

/* What cffi writes around each call. */
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS                                                                     \
    {                                                                                              \
        PyThreadState *_save = PyEval_SaveThread();                                                \
        __tsan_acquire(&gcookie_calls);
#define Py_END_ALLOW_THREADS                                                                       \
    __tsan_release(&gcookie_calls);                                                                \
    PyEval_RestoreThread(_save);                                                                   \
    }

#endif
