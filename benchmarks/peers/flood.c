/* flood PORT MILLISECONDS SOURCES WRONG: ClientHellos from SOURCES addresses and ports of
 * 127.0.0.0/8 to a server on 127.0.0.1, without a cookie or (WRONG 1) with a wrong one, for that
 * long. The replies are not read: small receive buffers overflow, which costs every server the
 * same. Prints how many were sent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1000 + (double)time.tv_nsec / 1e6;
}

/* A ClientHello of DTLS 1.2 with two cipher suites; 60 + `cookie` bytes and 7 more. */
static size_t hello(unsigned char *out, unsigned char cookie) {
    size_t body = 42u + cookie, size = body + 25u;
    memset(out, 0, size);
    out[0] = 22;
    out[1] = 0xfe;
    out[2] = 0xfd;
    out[11] = (unsigned char)((body + 12u) >> 8);
    out[12] = (unsigned char)(body + 12u);
    out[13] = 1;
    out[15] = out[23] = (unsigned char)(body >> 8);
    out[16] = out[24] = (unsigned char)body;
    out[25] = 0xfe;
    out[26] = 0xfd;
    out[60] = cookie;
    out[62u + cookie] = 2; /* cipher_suites: 2 bytes */
    out[63u + cookie] = 0xc0;
    out[64u + cookie] = 0x2b;
    out[65u + cookie] = 1; /* compression_methods: null */
    return size;
}

int main(int argc, char **argv) {
    unsigned char datagram[200];
    struct rlimit limit;
    struct sockaddr_in server = {.sin_family = AF_INET};
    unsigned long sent = 0;
    int sources, *fds;
    size_t size;
    double end;

    if (argc != 5)
        return 2;
    sources = atoi(argv[3]);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    fds = calloc((size_t)sources, sizeof *fds);
    if (fds == NULL)
        return 3;
    server.sin_port = htons((unsigned short)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < sources; i++) {
        struct sockaddr_in own = {.sin_family = AF_INET};
        int small = 1;
        own.sin_addr.s_addr = htonl(0x7f010001u + (unsigned int)i % 60000u);
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (fds[i] < 0 || bind(fds[i], (struct sockaddr *)&own, sizeof own) != 0 ||
            connect(fds[i], (struct sockaddr *)&server, sizeof server) != 0) {
            perror("flood");
            return 4;
        }
        setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    size = hello(datagram, argv[4][0] == '1' ? 16 : 0);
    end = now() + atof(argv[2]);
    while (now() < end)
        for (int i = 0; i < 256; i++) {
            datagram[58] = (unsigned char)sent;
            /* one that the kernel refuses is lost, like any other */
            (void)!send(fds[sent++ % (unsigned long)sources], datagram, size, 0);
        }
    printf("%lu\n", sent);
    return 0;
}
