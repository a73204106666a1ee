/* A library of its own, to be preloaded into an unmodified server that uses libgnutls: it stands in
 * front of gnutls_dtls_cookie_verify and gnutls_dtls_cookie_send, calls the real ones, and does
 * what the gate does besides. No Python in it. docs/drop-in.md says what it can mend and what not.
 *
 * The two calls of the stock recipe (an empty prestate, verify, else send) are known to each other
 * by the thread that makes them. A caller that keeps numbers of its own in its prestate, or sends
 * to another client than it verified last, is left alone: its call is the real one.
 *
 * Settings come in the environment variable GNUTLS_COOKIE_PRELOAD as lines NAME=VALUE: secret (a
 * file), period (seconds), stats (a file), record (a file). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, O_CLOEXEC */
#endif
#include "counters.h"
#include "gate.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

#define SETTINGS "GNUTLS_COOKIE_PRELOAD"
#define SECRET_CAPACITY 4096u
#define LEAST_SECRET 16u
#define PATH_CAPACITY 4096u
#define CLIENT_DATA_CAPACITY 256u /* sockaddr_storage has 128; a longer one is left alone */
#define RECORD_SEQ_OFFSET 5u      /* of its 6 bytes in a record header, RFC 6347 4.1 */
#define RECORD_SEQ_SIZE 6u
#define STATS_SECONDS 1

#define HEADERS_SIZE 25u        /* of record and handshake, RFC 6347 4.1 and 4.2.2 */
#define MOST_OF_A_RECORD 16384u /* RFC 6347 4.1 */
#define COOKIE_END_AT_MOST 348u /* 59, then 1 + 32 for the session id and 1 + 255 */

typedef int verify_function(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                            void *message, size_t message_size, gnutls_dtls_prestate_st *prestate);
typedef int send_function(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                          gnutls_dtls_prestate_st *prestate, gnutls_transport_ptr_t ptr,
                          gnutls_push_func push);
typedef int hmac_function(gnutls_mac_algorithm_t algorithm, const void *key, size_t key_size,
                          const void *text, size_t size, void *digest);

static verify_function *real_verify;
static send_function *real_send;
static hmac_function *real_hmac;

/* What the last gnutls_dtls_cookie_verify of this thread was about. */
struct last {
    enum { NOTHING, DISCARDED, REJECTED } what;
    unsigned int message_seq;
    unsigned char record_seq[RECORD_SEQ_SIZE];
    size_t client_data_size;
    unsigned char client_data[CLIENT_DATA_CAPACITY];
};
static __thread struct last last;

/* The keys of a period, derived anew by each thread: once a period, and no lock. */
struct ring {
    int64_t number; /* of the period; -1: none yet */
    unsigned char keys[2][GC_COOKIE_SIZE];
};
static __thread struct ring ring = {-1, {{0}, {0}}};

static unsigned char secret[SECRET_CAPACITY];
static size_t secret_size; /* 0: the server's own key */
static int64_t period = 3600;

/* Shared by all processes that the server forks. */
struct shared {
    struct gc_counters counters;
    uint64_t left_alone; /* calls that were passed on as they came */
};
static struct shared unshared;
static struct shared *shared = &unshared;

static char stats_path[PATH_CAPACITY];
static int stats_writer; /* pid of the process whose thread writes, 0: none */
static int record_file = -1;
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;

static int parse(const unsigned char *message, size_t size, struct gc_hello *hello);
static void read_settings(const char *settings);
static void read_secret(const char *path);
static void complain(const char *format, ...);
static const struct ring *ring_now(void);
static int verify_by(gnutls_datum_t *key, void *client_data, size_t client_data_size, void *message,
                     size_t message_size, gnutls_dtls_prestate_st *prestate, int *key_age);
static int is_empty(const gnutls_dtls_prestate_st *prestate);
static void remember(int what, const void *client_data, size_t client_data_size,
                     const unsigned char *message, const struct gc_hello *hello);
static int is_for(const struct last *of, const void *client_data, size_t client_data_size);
static void keep_stats(void);
static void record_verify(const gnutls_datum_t *key, const void *client_data,
                          size_t client_data_size, const void *message, size_t message_size,
                          const gnutls_dtls_prestate_st *before, int result,
                          const gnutls_dtls_prestate_st *after);
static void record_send(const gnutls_datum_t *key, const void *client_data, size_t client_data_size,
                        const gnutls_dtls_prestate_st *before, int result, ssize_t pushed,
                        const unsigned char *reply, size_t reply_size);

/* --- the two functions ----------------------------------------------------------------------- */

/* As the real one. A datagram that is no ClientHello by all its lengths has no cookie to be judged:
 * it is GNUTLS_E_UNEXPECTED_PACKET_LENGTH, and the gnutls_dtls_cookie_send that follows is silent.
 */
EXPORTED int gnutls_dtls_cookie_verify(gnutls_datum_t *key, void *client_data,
                                       size_t client_data_size, void *message, size_t message_size,
                                       gnutls_dtls_prestate_st *prestate) {
    struct gc_hello hello;
    struct gc_verdict verdict = {.kind = GC_DISCARD};
    gnutls_dtls_prestate_st filled = {0, 0, 0};
    int key_age = 0;

    if (real_verify == NULL) {
        return GNUTLS_E_INTERNAL_ERROR;
    }
    keep_stats();
    last.what = NOTHING;
    if (prestate == NULL || (message == NULL && message_size > 0)) {
        return real_verify(key, client_data, client_data_size, message, message_size, prestate);
    }
    if (!is_empty(prestate)) {
        gc_add(&shared->left_alone, 1);
        return verify_by(key, client_data, client_data_size, message, message_size, prestate,
                         &key_age);
    }
    verdict.reason = parse(message, message_size, &hello);
    if (verdict.reason != GC_OK) {
        if (record_file >= 0) {
            /* What the real one says of it: a record is of libgnutls, not of this library. */
            verify_by(key, client_data, client_data_size, message, message_size, &filled, &key_age);
        }
        gc_count(&shared->counters, &verdict);
        remember(DISCARDED, client_data, client_data_size, NULL, NULL);
        return GNUTLS_E_UNEXPECTED_PACKET_LENGTH;
    }
    int result =
        verify_by(key, client_data, client_data_size, message, message_size, &filled, &key_age);
    if (result >= 0 && hello.record_seq > UINT32_MAX) {
        result = GNUTLS_E_BAD_COOKIE; /* beyond what a prestate can hand over: challenged anew */
    }
    if (result < 0) {
        verdict.kind = GC_CHALLENGE;
        verdict.presented = hello.cookie_size > 0;
        gc_count(&shared->counters, &verdict);
        remember(REJECTED, client_data, client_data_size, message, &hello);
        return result;
    }
    verdict.kind = GC_VERIFIED;
    verdict.key_age = key_age;
    gc_count(&shared->counters, &verdict);
    /* As gate.c: the numbers in full, and as the last written that of the HelloVerifyRequest, which
     * echoed the hello before this one. */
    prestate->record_seq = (unsigned int)hello.record_seq;
    prestate->hsk_read_seq = hello.message_seq;
    prestate->hsk_write_seq = (hello.message_seq > 0 ? hello.message_seq : 1) - 1;
    return result;
}

/* gc_parse, and besides: a server that peeks into a short buffer (gnutls-serv: 255 bytes) has the
 * beginning of the datagram alone, and states that to libgnutls as its size. What it has is taken
 * for a first fragment, as far as the lengths in it agree with each other. */
static int parse(const unsigned char *message, size_t size, struct gc_hello *hello) {
    const int reason = gc_parse(message, size, hello);
    if (reason != GC_RECORD_LENGTH || size < HEADERS_SIZE) {
        return reason;
    }
    const unsigned int record = message[11] * 256u + message[12];
    const unsigned int fragment = message[22] * 65536u + message[23] * 256u + message[24];
    if (record > MOST_OF_A_RECORD || fragment + 12u != record) {
        return reason;
    }
    unsigned char start[COOKIE_END_AT_MOST];
    const size_t length = size < sizeof start ? size : sizeof start;
    memcpy(start, message, length);
    start[11] = (unsigned char)((length - 13) >> 8);
    start[12] = (unsigned char)(length - 13);
    start[22] = 0;
    start[23] = (unsigned char)((length - HEADERS_SIZE) >> 8);
    start[24] = (unsigned char)(length - HEADERS_SIZE);
    return gc_parse(start, length, hello);
}

/* The transport of a gnutls_dtls_cookie_send under way. */
struct outgoing {
    gnutls_transport_ptr_t ptr;
    gnutls_push_func push;
    const unsigned char *record_seq; /* NULL: as libgnutls wrote it */
    ssize_t pushed;
    unsigned char reply[GC_REPLY_SIZE];
    size_t reply_size;
};

/* 4.2.1: the record sequence of the ClientHello, of which libgnutls writes the lowest byte. */
static ssize_t push_with_all_bits(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct outgoing *out = ptr;
    if (size != sizeof out->reply) {
        return out->pushed = out->push(out->ptr, data, size);
    }
    memcpy(out->reply, data, size);
    out->reply_size = size;
    unsigned char patched[GC_REPLY_SIZE];
    memcpy(patched, data, size);
    if (out->record_seq != NULL) {
        memcpy(patched + RECORD_SEQ_OFFSET, out->record_seq, RECORD_SEQ_SIZE);
    }
    return out->pushed = out->push(out->ptr, patched, size);
}

/* As the real one. For a datagram that deserves no answer nothing is pushed, and the result is 0:
 * the number of bytes sent. A negative one would be an error to the callers that look at it. */
EXPORTED int gnutls_dtls_cookie_send(gnutls_datum_t *key, void *client_data,
                                     size_t client_data_size, gnutls_dtls_prestate_st *prestate,
                                     gnutls_transport_ptr_t ptr, gnutls_push_func push) {
    if (real_send == NULL) {
        return GNUTLS_E_INTERNAL_ERROR;
    }
    const struct last before = last;
    last.what = NOTHING;
    const int is_ours = prestate != NULL && push != NULL && before.what != NOTHING &&
                        is_empty(prestate) && is_for(&before, client_data, client_data_size);
    if (is_ours && before.what == DISCARDED) {
        return 0;
    }
    const struct ring *keys = ring_now();
    gnutls_datum_t current = {keys != NULL ? (unsigned char *)keys->keys[0] : NULL, GC_COOKIE_SIZE};
    gnutls_datum_t *signing = keys != NULL ? &current : key;
    if (!is_ours) {
        gc_add(&shared->left_alone, 1);
        if (record_file < 0 || prestate == NULL || push == NULL) {
            return real_send(signing, client_data, client_data_size, prestate, ptr, push);
        }
    }
    struct outgoing out = {.ptr = ptr, .push = push};
    gnutls_dtls_prestate_st numbers = *prestate;
    if (is_ours) {
        numbers.record_seq = before.record_seq[RECORD_SEQ_SIZE - 1];
        numbers.hsk_write_seq = before.message_seq;
        out.record_seq = before.record_seq;
    }
    const int result =
        real_send(signing, client_data, client_data_size, &numbers, &out, push_with_all_bits);
    if (record_file >= 0) {
        record_send(signing, client_data, client_data_size, &numbers, result, out.pushed, out.reply,
                    out.reply_size);
    }
    return result;
}

static int verify_by(gnutls_datum_t *key, void *client_data, size_t client_data_size, void *message,
                     size_t message_size, gnutls_dtls_prestate_st *prestate, int *key_age) {
    const struct ring *keys = ring_now();
    int result = GNUTLS_E_BAD_COOKIE;
    const int tries = keys == NULL ? 1 : 2;
    for (int age = 0; age < tries && result == GNUTLS_E_BAD_COOKIE; age++) {
        const gnutls_dtls_prestate_st before = *prestate;
        gnutls_datum_t own = {keys != NULL ? (unsigned char *)keys->keys[age] : NULL,
                              GC_COOKIE_SIZE};
        gnutls_datum_t *with = keys != NULL ? &own : key;
        result = real_verify(with, client_data, client_data_size, message, message_size, prestate);
        *key_age = age;
        if (record_file >= 0) {
            record_verify(with, client_data, client_data_size, message, message_size, &before,
                          result, prestate);
        }
    }
    return result;
}

static int is_empty(const gnutls_dtls_prestate_st *prestate) {
    return prestate->record_seq == 0 && prestate->hsk_read_seq == 0 && prestate->hsk_write_seq == 0;
}

static void remember(int what, const void *client_data, size_t client_data_size,
                     const unsigned char *message, const struct gc_hello *hello) {
    if (client_data_size > sizeof last.client_data ||
        (client_data == NULL && client_data_size > 0)) {
        return; /* left alone */
    }
    last.what = what;
    last.client_data_size = client_data_size;
    if (client_data_size > 0) {
        memcpy(last.client_data, client_data, client_data_size);
    }
    if (hello != NULL) {
        last.message_seq = hello->message_seq;
        memcpy(last.record_seq, message + RECORD_SEQ_OFFSET, RECORD_SEQ_SIZE);
    }
}

static int is_for(const struct last *of, const void *client_data, size_t client_data_size) {
    return of->client_data_size == client_data_size &&
           (client_data_size == 0 ||
            (client_data != NULL && memcmp(of->client_data, client_data, client_data_size) == 0));
}

/* --- keys of a fleet ------------------------------------------------------------------------- */

/* HKDF-SHA256 (RFC 5869) as keys.py has it: the same keys on every node with the secret. */
static int derive(int64_t number, unsigned char key[GC_COOKIE_SIZE]) {
    static const unsigned char salt[] = "gnutls-cookie";
    static const unsigned char label[] = "DTLS cookie key";
    unsigned char extracted[32], made[32], info[sizeof label - 1 + 8 + 1];
    memcpy(info, label, sizeof label - 1);
    for (unsigned int at = 0; at < 8; at++) {
        info[sizeof label - 1 + at] = (unsigned char)((uint64_t)number >> (56 - 8 * at));
    }
    info[sizeof info - 1] = 1;
    if (real_hmac(GNUTLS_MAC_SHA256, salt, sizeof salt - 1, secret, secret_size, extracted) < 0 ||
        real_hmac(GNUTLS_MAC_SHA256, extracted, sizeof extracted, info, sizeof info, made) < 0) {
        return 0;
    }
    memcpy(key, made, GC_COOKIE_SIZE);
    return 1;
}

/* The keys of this moment; NULL where the server's own key is to be used. */
static const struct ring *ring_now(void) {
    if (secret_size == 0 || real_hmac == NULL) {
        return NULL;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t number = (int64_t)now.tv_sec / period;
    if (ring.number != number) {
        ring.number = -1;
        if (!derive(number, ring.keys[0]) || !derive(number - 1, ring.keys[1])) {
            return NULL;
        }
        ring.number = number;
    }
    return &ring;
}

/* --- counters -------------------------------------------------------------------------------- */

/* The names of gate.py's DiscardReason, in lower case. */
static const char *const REASONS[GC_INTERNAL + 1] = {
    [GC_RECORD_HEADER] = "record_header",     [GC_CONTENT_TYPE] = "content_type",
    [GC_RECORD_VERSION] = "record_version",   [GC_EPOCH] = "epoch",
    [GC_RECORD_LENGTH] = "record_length",     [GC_HANDSHAKE_HEADER] = "handshake_header",
    [GC_HANDSHAKE_TYPE] = "handshake_type",   [GC_MESSAGE_SEQ] = "message_seq",
    [GC_FRAGMENT_OFFSET] = "fragment_offset", [GC_FRAGMENT_LENGTH] = "fragment_length",
    [GC_TRAILING_DATA] = "trailing_data",     [GC_SESSION_ID] = "session_id",
    [GC_COOKIE_FIELD] = "cookie_field",       [GC_INTERNAL] = "internal",
};

struct text {
    char data[4096];
    size_t size;
};

static void add(struct text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int more =
        vsnprintf(text->data + text->size, sizeof text->data - text->size, format, arguments);
    va_end(arguments);
    if (more > 0 && (size_t)more < sizeof text->data - text->size) {
        text->size += (size_t)more;
    }
}

static void write_stats(void) {
    const struct gc_counters *counters = &shared->counters;
    struct text text = {.size = 0};
    const char *comma = "";
    char temporary[PATH_CAPACITY + 32];

    add(&text, "{\"time\": %lld, \"challenged\": %llu, \"presented\": %llu, \"verified\": %llu, ",
        (long long)time(NULL), (unsigned long long)counters->challenged,
        (unsigned long long)counters->presented, (unsigned long long)counters->verified[0]);
    add(&text, "\"verified_previous\": %llu, \"left_alone\": %llu, \"discarded\": {",
        (unsigned long long)counters->verified[1], (unsigned long long)shared->left_alone);
    for (unsigned int reason = 0; reason <= GC_INTERNAL; reason++) {
        if (REASONS[reason] != NULL && counters->discarded[reason] > 0) {
            add(&text, "%s\"%s\": %llu", comma, REASONS[reason],
                (unsigned long long)counters->discarded[reason]);
            comma = ", ";
        }
    }
    add(&text, "}}\n");
    snprintf(temporary, sizeof temporary, "%s.%ld", stats_path, (long)getpid());
    const int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) {
        return;
    }
    const int written = write(file, text.data, text.size) == (ssize_t)text.size;
    if (close(file) != 0 || !written || rename(temporary, stats_path) != 0) {
        unlink(temporary);
    }
}

static void *write_stats_for_ever(void *unused) {
    const struct timespec pause = {STATS_SECONDS, 0};
    for (;;) {
        write_stats();
        nanosleep(&pause, NULL);
    }
    return unused;
}

/* A thread writes them. It does not survive a fork, and so each process starts its own with its
 * first call; all of them write the same numbers, which are shared. */
static void keep_stats(void) {
    if (stats_path[0] == '\0' || __atomic_load_n(&stats_writer, __ATOMIC_RELAXED) == getpid()) {
        return;
    }
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (stats_writer != getpid()) {
        pthread_t thread;
        sigset_t all, before;
        __atomic_store_n(&stats_writer, getpid(), __ATOMIC_RELAXED);
        sigfillset(&all); /* signals are for the server's own threads */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&thread, NULL, write_stats_for_ever, NULL) == 0) {
            pthread_detach(thread);
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_mutex_unlock(&lock);
}

/* --- recording ------------------------------------------------------------------------------- */

/* Lines as the differential bench reads them. One write a line: processes share the file. */
#define LINE_CAPACITY (2u * 65536u + 8192u)
static char line[LINE_CAPACITY];
static size_t line_size;

static void put(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int more = vsnprintf(line + line_size, LINE_CAPACITY - line_size, format, arguments);
    va_end(arguments);
    if (more > 0 && (size_t)more < LINE_CAPACITY - line_size) {
        line_size += (size_t)more;
    }
}

static void put_hex(const char *name, const void *data, size_t size) {
    static const char digits[] = "0123456789abcdef";
    const unsigned char *bytes = data;
    put("\"%s\": ", name);
    if (data == NULL) {
        put("null, ");
        return;
    }
    if (size > 65536 || 2 * size + 16 > LINE_CAPACITY - line_size) {
        size = 0; /* cannot be: no datagram is that long */
    }
    line[line_size++] = '"';
    for (size_t at = 0; at < size; at++) {
        line[line_size++] = digits[bytes[at] >> 4];
        line[line_size++] = digits[bytes[at] & 15];
    }
    put("\", ");
}

static void put_numbers(const char *name, const gnutls_dtls_prestate_st *prestate) {
    put("\"%s\": [%u, %u, %u], ", name, prestate->record_seq, prestate->hsk_read_seq,
        prestate->hsk_write_seq);
}

static void begin_line(const char *operation, const gnutls_datum_t *key, const void *client_data,
                       size_t client_data_size) {
    pthread_mutex_lock(&record_lock);
    line_size = 0;
    put("{\"operation\": \"%s\", ", operation);
    put_hex("key", key->data, key->size);
    put_hex("client_data", client_data_size == 0 ? NULL : client_data, client_data_size);
}

static void end_line(int result) {
    put("\"result\": %d}\n", result);
    (void)!write(record_file, line, line_size);
    pthread_mutex_unlock(&record_lock);
}

static void record_verify(const gnutls_datum_t *key, const void *client_data,
                          size_t client_data_size, const void *message, size_t message_size,
                          const gnutls_dtls_prestate_st *before, int result,
                          const gnutls_dtls_prestate_st *after) {
    begin_line("verify", key, client_data, client_data_size);
    put_hex("message", message == NULL ? "" : message, message_size);
    put_numbers("prestate", before);
    put_numbers("after", after);
    end_line(result);
}

static void record_send(const gnutls_datum_t *key, const void *client_data, size_t client_data_size,
                        const gnutls_dtls_prestate_st *before, int result, ssize_t pushed,
                        const unsigned char *reply, size_t reply_size) {
    begin_line("send", key, client_data, client_data_size);
    put("\"pushed\": %lld, ", (long long)pushed);
    put_numbers("prestate", before);
    put_numbers("after", before);
    put_hex("reply", reply, reply_size);
    end_line(result);
}

static void lock_record(void) {
    pthread_mutex_lock(&record_lock);
}

static void unlock_record(void) {
    pthread_mutex_unlock(&record_lock);
}

/* --- the beginning --------------------------------------------------------------------------- */

/* Functions and data have different pointers in ISO C, and the same in POSIX. */
static void find(const char *name, void *function) {
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(function, &found, sizeof found);
}

__attribute__((constructor)) static void begin(void) {
    find("gnutls_dtls_cookie_verify", &real_verify);
    find("gnutls_dtls_cookie_send", &real_send);
    find("gnutls_hmac_fast", &real_hmac);
    if (real_verify == NULL || real_send == NULL) {
        return; /* a program without libgnutls, started by the server perhaps */
    }
    void *memory =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
        shared = memory;
    }
    read_settings(getenv(SETTINGS));
    pthread_atfork(lock_record, unlock_record, unlock_record);
}

static void read_settings(const char *settings) {
    while (settings != NULL && *settings != '\0') {
        char value[PATH_CAPACITY];
        const char *end = strchr(settings, '\n');
        const size_t size = end != NULL ? (size_t)(end - settings) : strlen(settings);
        const char *equals = memchr(settings, '=', size);
        if (equals == NULL || (size_t)(settings + size - equals - 1) >= sizeof value) {
            complain("a setting is of no use");
        } else {
            const size_t name_size = (size_t)(equals - settings);
            const size_t value_size = size - name_size - 1;
            memcpy(value, equals + 1, value_size);
            value[value_size] = '\0';
            if (name_size == 6 && memcmp(settings, "secret", 6) == 0) {
                read_secret(value);
            } else if (name_size == 6 && memcmp(settings, "period", 6) == 0) {
                const long long seconds = strtoll(value, NULL, 10);
                period = seconds >= 1 ? (int64_t)seconds : period;
            } else if (name_size == 5 && memcmp(settings, "stats", 5) == 0) {
                memcpy(stats_path, value, value_size + 1);
            } else if (name_size == 6 && memcmp(settings, "record", 6) == 0) {
                record_file = open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
                if (record_file < 0 || fchmod(record_file, 0600) != 0) {
                    complain("cannot record to %s: %s", value, strerror(errno));
                }
            }
        }
        settings = end != NULL ? end + 1 : NULL;
    }
}

/* The secret of a file as `serve` reads it: without white space at its end. An empty path: one made
 * here, the same in all processes that are forked. */
static void read_secret(const char *path) {
    if (*path == '\0') {
        secret_size = getrandom(secret, 32, 0) == 32 ? 32 : 0;
    } else {
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        const ssize_t size = file < 0 ? -1 : read(file, secret, sizeof secret);
        if (file >= 0) {
            close(file);
        }
        secret_size = size < 0 || size == (ssize_t)sizeof secret ? 0 : (size_t)size;
        while (secret_size > 0 && isspace(secret[secret_size - 1])) {
            secret_size--;
        }
    }
    if (secret_size < LEAST_SECRET) {
        complain("no cookie secret in %s: the server's own key is used", path);
        secret_size = 0;
    }
}

static void complain(const char *format, ...) {
    char text[PATH_CAPACITY + 256];
    va_list arguments;
    va_start(arguments, format);
    const int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size > 0) {
        const struct iovec parts[] = {
            {(void *)"gnutls-cookie: ", 15},
            {text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1},
            {(void *)"\n", 1},
        };
        (void)!writev(STDERR_FILENO, parts, 3);
    }
}
