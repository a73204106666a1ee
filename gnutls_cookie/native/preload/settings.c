/* Runs first: finds libgnutls, maps the memory that `run` has made, and removes the library from
 * the environment, so that programs started by the server do not load it.
 *
 * The environment variable GNUTLS_COOKIE_PRELOAD has numbers: a descriptor of that memory, its
 * device and its inode; then a process that holds it too (the writer), and its descriptor there.
 * What has another device or inode is not that memory, and is not touched. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, dladdr */
#endif
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SETTINGS "GNUTLS_COOKIE_PRELOAD"
#define MAGIC "gnutls-cookie/1"

struct gcookie_real gcookie_real;

static struct gcookie_shared unshared;
struct gcookie_shared *gcookie_shared = &unshared;

/* Functions and data have different pointers in ISO C, and the same in POSIX. */
static void find(void *library, const char *name, void *function) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
}

static int find_in(void *library) {
    struct gcookie_real found;
    find(library, "gnutls_dtls_cookie_verify", &found.verify);
    find(library, "gnutls_dtls_cookie_send", &found.send);
    find(library, "gnutls_hmac_fast", &found.hmac);
    if (found.verify == NULL || found.send == NULL || found.hmac == NULL) {
        return 0;
    }
    gcookie_real = found;
    return 1;
}

static void complain(const char *what) {
    static const char begin[] = "gnutls-cookie: ", end[] = "\n";
    char line[256];
    const int size = snprintf(line, sizeof line, "%s%s%s", begin, what, end);
    if (size > 0 && (size_t)size < sizeof line) {
        (void)!write(STDERR_FILENO, line, (size_t)size);
    }
}

/* The memory behind a descriptor, if it is the one that `run` has made; else NULL. */
static struct gcookie_shared *map(int file, dev_t device, ino_t inode) {
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_dev != device ||
        status.st_ino != inode || status.st_size < (off_t)sizeof(struct gcookie_shared)) {
        return NULL;
    }
    const size_t size = (size_t)status.st_size;
    struct gcookie_shared *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found == MAP_FAILED) {
        return NULL;
    }
    if (memcmp(found->magic, MAGIC, sizeof MAGIC) != 0 ||
        found->unit_count > (size - sizeof *found) / GCOOKIE_UNIT_SIZE) {
        munmap(found, size);
        return NULL;
    }
    return found;
}

static int attach(const char *settings) {
    long long numbers[5] = {-1, -1, -1, -1, -1}; /* descriptor, device, inode, process, its own */
    for (unsigned int number = 0; number < 5 && *settings != '\0'; number++) {
        char *end;
        numbers[number] = strtoll(settings, &end, 10);
        settings = end;
    }
    const int handed = (int)numbers[0];
    const dev_t device = (dev_t)numbers[1];
    const ino_t inode = (ino_t)numbers[2];
    struct gcookie_shared *found = map(handed, device, inode);
    if (found != NULL) {
        if (!(found->flags & GCOOKIE_FOR_CHILDREN)) {
            close(handed);
        }
    } else if (numbers[3] > 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%lld/fd/%lld", numbers[3], numbers[4]);
        const int file = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        found = map(file, device, inode);
        if (file >= 0) {
            close(file);
        }
    }
    if (found == NULL) {
        return 0;
    }
    if (found->flags & GCOOKIE_HAS_KEYS) {
        gcookie_use_keys(found->key_material, found->period);
        if (!(found->flags & GCOOKIE_FOR_CHILDREN)) {
            memset(found->key_material, 0, sizeof found->key_material);
        }
    }
    gcookie_shared = found;
    __atomic_store_n(&gcookie_shared->attached, 1, __ATOMIC_RELEASE);
    return 1;
}

/* Takes this library out of LD_PRELOAD, and leaves the others there. */
static void leave_environment(void) {
    static const char separators[] = " :"; /* ld.so(8) */
    const char *all = getenv("LD_PRELOAD");
    Dl_info own;

    unsetenv(SETTINGS);
    if (all == NULL || dladdr(&unshared, &own) == 0 || own.dli_fname == NULL) {
        return;
    }
    char *others = malloc(strlen(all) + 1);
    if (others == NULL) {
        return;
    }
    size_t used = 0;
    for (const char *at = all; *at != '\0';) {
        const size_t size = strcspn(at, separators);
        if (size > 0 && (size != strlen(own.dli_fname) || memcmp(at, own.dli_fname, size) != 0)) {
            if (used > 0) {
                others[used++] = ':';
            }
            memcpy(others + used, at, size);
            used += size;
        }
        at += size;
        at += strspn(at, separators);
    }
    others[used] = '\0';
    if (used > 0) {
        setenv("LD_PRELOAD", others, 1);
    } else {
        unsetenv("LD_PRELOAD");
    }
    free(others);
}

static void take_settings(void) {
    const char *settings = getenv(SETTINGS);
    if (settings == NULL) {
        return; /* preloaded by hand */
    }
    if (!attach(settings)) {
        complain("the settings of `run` cannot be reached from here: nothing is counted or "
                 "recorded, and the server's own key is used");
        leave_environment();
    } else if (!(gcookie_shared->flags & GCOOKIE_FOR_CHILDREN)) {
        leave_environment();
    }
}

__attribute__((constructor)) static void begin(void) {
    const int before = errno;
    if (find_in(RTLD_NEXT)) {
        take_settings();
    } /* else a program without libgnutls; what it starts may have it */
    errno = before;
}

int gcookie_find_real(void) {
    if (gcookie_real.verify != NULL) {
        return 1;
    }
    /* It came later, with something that the program has opened. */
    void *library = dlopen("libgnutls.so.30", RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL || !find_in(library)) {
        return 0;
    }
    take_settings();
    return 1;
}
