/* preload_calls COUNT [time]: calls of the two cookie functions as a server of the stock recipe
 * makes them, with hellos good, wrong, broken and cut, by a seed; in two threads and a forked
 * child. With `time`: nanoseconds of a verify of a wrong cookie and the send behind it, once a
 * line, 20 lines. */
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static unsigned char key_bytes[16];
static long count;

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    memcpy(ptr, data, size < 44 ? size : 44);
    return (ssize_t)size;
}

/* A ClientHello of 85 bytes with a cookie of 16 (RFC 6347 4.1, 4.2.2, 4.2.1). */
static size_t hello(unsigned char out[85], const unsigned char *cookie, unsigned int seq) {
    memset(out, 0, 85);
    memcpy(out, "\x16\xfe\xff", 3);
    out[10] = (unsigned char)seq;
    out[12] = 85 - 13;
    out[13] = 1;
    out[16] = out[24] = 85 - 25;
    out[18] = (unsigned char)seq;
    memcpy(out + 25, "\xfe\xfd", 2);
    out[60] = 16;
    memcpy(out + 61, cookie, 16);
    out[78] = 2;
    out[81] = 1;
    return 85;
}

static void *work(void *argument) {
    int too_late = 0;
    unsigned int seed = (unsigned int)(size_t)argument;
    gnutls_datum_t key = {key_bytes, sizeof key_bytes};
    for (long number = 0; number < count; number++) {
        unsigned char datagram[85], client[16], reply[44];
        gnutls_dtls_prestate_st prestate;
        size_t size = hello(datagram, (const unsigned char *)"0123456789abcdef", 1);
        int fault = rand_r(&seed) % 8;
        for (size_t at = 0; at < sizeof client; at++)
            client[at] = (unsigned char)rand_r(&seed);
        memset(reply, 0, sizeof reply);
        memset(&prestate, 0, sizeof prestate);
        if (fault == 0)
            datagram[rand_r(&seed) % 85] ^= (unsigned char)(1 << rand_r(&seed) % 8);
        if (fault == 1)
            size = (size_t)(rand_r(&seed) % 86);
        if (fault == 2)
            prestate.record_seq = 7; /* a caller with numbers of its own */
        /* In memory of its own size, so that a read behind it is seen. */
        unsigned char *exact = malloc(size > 0 ? size : 1);
        if (exact == NULL)
            exit(3);
        memcpy(exact, datagram, size);
        if (gnutls_dtls_cookie_verify(&key, client, sizeof client, exact, size, &prestate) >= 0)
            exit(4);
        if (fault == 3)
            client[0] ^= 1; /* an answer to somebody else */
        int sent = gnutls_dtls_cookie_send(&key, client, sizeof client, &prestate, reply, push);
        if (sent != 44 && sent != 0)
            exit(5);
        free(exact);
        if (sent == 44 && fault > 3) {
            hello(datagram, reply + 28, 2);
            memset(&prestate, 0, sizeof prestate);
            /* With keys of a second, one that was held up for as long comes too late. */
            if (gnutls_dtls_cookie_verify(&key, client, sizeof client, datagram, 85, &prestate) <
                    0 &&
                ++too_late > 5)
                exit(6);
        }
    }
    return NULL;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void measure(void) {
    gnutls_datum_t key = {key_bytes, sizeof key_bytes};
    unsigned char datagram[85], client[16] = {0}, reply[44];
    gnutls_dtls_prestate_st prestate;
    hello(datagram, (const unsigned char *)"0123456789abcdef", 1);
    for (int round = 0; round < 20; round++) {
        double start = now();
        for (long number = 0; number < count; number++) {
            memset(&prestate, 0, sizeof prestate);
            gnutls_dtls_cookie_verify(&key, client, sizeof client, datagram, 85, &prestate);
            gnutls_dtls_cookie_send(&key, client, sizeof client, &prestate, reply, push);
        }
        printf("%.1f\n", (now() - start) / (double)count);
    }
}

int main(int argc, char **argv) {
    pthread_t thread;
    int status = 0;
    pid_t child;

    if (argc < 2)
        return 2;
    count = atol(argv[1]);
    if (argc == 3) {
        measure();
        return 0;
    }
    if (pthread_create(&thread, NULL, work, (void *)(size_t)1) != 0)
        return 3;
    work((void *)(size_t)2);
    pthread_join(thread, NULL);
    child = fork();
    if (child == 0) {
        work((void *)(size_t)3);
        exit(0);
    }
    waitpid(child, &status, 0);
    puts("done");
    return status == 0 ? 0 : 7;
}
