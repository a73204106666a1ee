/* To preload: how often memory was freed that still held the text which FREED_TEXT names, and how
 * often it was freed at all; freed_with_text() and freed() tell. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static const char *text;
static size_t text_size, total, with_text;

__attribute__((constructor)) static void start(void) {
    text = getenv("FREED_TEXT");
    text_size = text == NULL ? 0 : strlen(text);
}

size_t freed(void) {
    return total;
}

size_t freed_with_text(void) {
    return with_text;
}

void free(void *memory) {
    static void (*real)(void *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "free");
    if (memory != NULL && text_size > 0) {
        total++;
        if (memmem(memory, malloc_usable_size(memory), text, text_size) != NULL)
            with_text++;
    }
    real(memory);
}
