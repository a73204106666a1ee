/* libgnutls' debug messages, kept until somebody takes them. The function that libgnutls calls runs
 * in any thread, inside of any call: it waits for nobody and knows no Python. For the whole
 * process. */
#ifndef GNUTLS_COOKIE_DEBUG_H
#define GNUTLS_COOKIE_DEBUG_H

#include <stddef.h>
#include <stdint.h>

enum { GCOOKIE_DEBUG_TEXT = 500 }; /* bytes of a message; what is longer is cut */

struct gcookie_debug_line {
    int level;
    double time; /* seconds since the epoch */
    size_t size;
    char text[GCOOKIE_DEBUG_TEXT];
};

/* Messages up to this level are kept (gnutls_global_set_log_level); 0: none. 0, or
 * GNUTLS_E_MEMORY_ERROR. */
int gcookie_debug_level(int level);

/* The oldest message that is kept: 1; 0: there is none. */
int gcookie_debug_take(struct gcookie_debug_line *out);

/* How many there was no room for since this was asked last. */
uint64_t gcookie_debug_lost(void);

/* In the child of a fork, whose other threads are gone: nothing is kept, and nobody holds it. */
void gcookie_debug_forget(void);

#endif
