/* calls COUNT: nanoseconds of a call of libgnutls' cookie functions in C, a line each. */
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned char key_bytes[16], who[16], hello[200], reply[44];

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    (void)ptr;
    memcpy(reply, data, size);
    return (ssize_t)size;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    gnutls_datum_t key = {key_bytes, sizeof key_bytes};
    gnutls_dtls_prestate_st prestate;
    long count = argc == 2 ? atol(argv[1]) : 100000;
    double start;

    memset(&prestate, 0, sizeof prestate);
    start = now();
    for (long i = 0; i < count; i++)
        gnutls_dtls_cookie_verify(&key, who, sizeof who, hello, 100, &prestate);
    printf("verify_empty %.1f\n", (now() - start) / (double)count);
    hello[60] = 16;
    start = now();
    for (long i = 0; i < count; i++)
        gnutls_dtls_cookie_verify(&key, who, sizeof who, hello, 100, &prestate);
    printf("verify_wrong %.1f\n", (now() - start) / (double)count);
    gnutls_dtls_cookie_send(&key, who, sizeof who, &prestate, NULL, push);
    memcpy(hello + 61, reply + 28, 16);
    start = now();
    for (long i = 0; i < count; i++)
        if (gnutls_dtls_cookie_verify(&key, who, sizeof who, hello, 100, &prestate) != 0)
            return 1;
    printf("verify_good %.1f\n", (now() - start) / (double)count);
    start = now();
    for (long i = 0; i < count; i++)
        gnutls_dtls_cookie_send(&key, who, sizeof who, &prestate, NULL, push);
    printf("send %.1f\n", (now() - start) / (double)count);
    return 0;
}
