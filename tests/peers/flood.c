/* A flood of datagrams: flood IP PORT KIND SOURCES SECONDS [PER_SECOND [FROM]]. KIND is hello
 * (ClientHellos without a cookie), wrong (with a cookie that nobody made), junk, long (junk of up
 * to 60,000 bytes) or mixed. The sources are addresses times ports: those behind FROM (127.1.0.0),
 * which must be the host's own. Replies are taken and dropped. Prints how many datagrams were sent
 * and how many replies came. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 64, MAX_PORTS = 200, PADDED = 200, LONGEST = 60000 };

struct packet_info {
    struct cmsghdr header;
    struct in_pktinfo info;
};

static unsigned char hellos[BURST][PADDED];
static unsigned char junk[LONGEST];
static struct packet_info from[BURST];
static struct iovec parts[BURST];
static struct mmsghdr out[BURST];
static struct mmsghdr in[BURST];
static uint64_t state = 88172645463325252u;

static uint64_t chance(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* RFC 6347 4.2.2 and 4.2.1, in a record of its own (4.1). */
static size_t make_hello(unsigned char *hello, int with_cookie) {
    const unsigned int cookie = with_cookie ? 16 : 0;
    const unsigned int body = 34 + 1 + 1 + cookie + 2 + 62 + 2 + 2 + 30;
    static const unsigned char versions[2] = {0xfe, 0xfd};
    memset(hello, 0, PADDED);
    hello[0] = 22;
    hello[1] = 0xfe;
    hello[2] = 0xff;
    hello[12] = (unsigned char)(body + 12);
    hello[13] = 1;
    hello[16] = (unsigned char)body;
    hello[24] = (unsigned char)body;
    memcpy(hello + 25, versions, 2);
    for (unsigned int at = 27; at < 59; at++) {
        hello[at] = (unsigned char)chance();
    }
    hello[60] = (unsigned char)cookie;
    for (unsigned int at = 0; at < cookie; at++) {
        hello[61 + at] = (unsigned char)chance();
    }
    hello[61 + cookie + 1] = 62;
    hello[61 + cookie + 2 + 62] = 1;
    hello[61 + cookie + 2 + 62 + 3] = 30;
    return 25 + body;
}

static size_t make_datagram(int at, const char *kind) {
    const char *one = kind;
    if (strcmp(kind, "mixed") == 0) {
        static const char *const kinds[] = {"hello", "wrong", "junk"};
        one = kinds[chance() % 3];
    }
    parts[at].iov_base = hellos[at];
    if (strcmp(one, "hello") == 0 || strcmp(one, "wrong") == 0) {
        return make_hello(hellos[at], one[0] == 'w');
    }
    parts[at].iov_base = junk;
    return chance() % (strcmp(one, "long") == 0 ? LONGEST : 300);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: flood IP PORT hello|wrong|junk|long|mixed SOURCES SECONDS "
                        "[PER_SECOND [FROM]]\n");
        return 2;
    }
    struct sockaddr_in server = {0};
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) {
        fprintf(stderr, "flood: no IPv4 address: %s\n", argv[1]);
        return 2;
    }
    const uint32_t sources = (uint32_t)atol(argv[4]);
    const double seconds = atof(argv[5]);
    const double per_second = argc > 6 ? atof(argv[6]) : 0;
    struct in_addr first = {.s_addr = htonl(0x7f010000u)};
    if (argc > 7 && inet_pton(AF_INET, argv[7], &first) != 1) {
        fprintf(stderr, "flood: no IPv4 address: %s\n", argv[7]);
        return 2;
    }
    const uint32_t ports = sources < MAX_PORTS ? sources : MAX_PORTS;
    const uint32_t addresses = ports == 0 ? 0 : (sources + ports - 1) / ports;
    if (addresses == 0 || addresses > 60000) {
        fprintf(stderr, "flood: SOURCES must be 1..%d\n", MAX_PORTS * 60000);
        return 2;
    }

    int sockets[MAX_PORTS];
    for (uint32_t at = 0; at < ports; at++) {
        sockets[at] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        struct sockaddr_in any = {0};
        any.sin_family = AF_INET;
        if (sockets[at] < 0 || bind(sockets[at], (struct sockaddr *)&any, sizeof any) != 0) {
            fail("flood: socket");
        }
    }
    for (size_t at = 0; at < LONGEST; at++) {
        junk[at] = (unsigned char)(chance() | 0x80); /* no content type of TLS */
    }
    for (int at = 0; at < BURST; at++) {
        struct msghdr *header = &out[at].msg_hdr;
        from[at].header.cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
        from[at].header.cmsg_level = IPPROTO_IP;
        from[at].header.cmsg_type = IP_PKTINFO;
        header->msg_name = &server;
        header->msg_namelen = sizeof server;
        header->msg_iov = &parts[at];
        header->msg_iovlen = 1;
        header->msg_control = &from[at];
        header->msg_controllen = sizeof from[at];
        parts[at].iov_len = make_datagram(at, argv[3]);
    }

    const double start = seconds_now();
    uint64_t sent = 0;
    uint64_t replies = 0;
    uint32_t address = 0;
    double now = start;
    for (uint32_t port = 0; now - start < seconds; port = (port + 1) % ports) {
        const int fd = sockets[port];
        address = port == 0 ? (address + 1) % addresses : address;
        for (int at = 0; at < BURST; at++) {
            const uint32_t host = (address + (uint32_t)at) % addresses;
            const uint32_t low = (host / 250) << 8 | (host % 250 + 1);
            from[at].info.ipi_spec_dst.s_addr = htonl(ntohl(first.s_addr) + low);
            parts[at].iov_len = make_datagram(at, argv[3]);
        }
        const int done = sendmmsg(fd, out, BURST, 0);
        if (done > 0) {
            sent += (uint64_t)done;
        } else if (errno != EAGAIN && errno != ENOBUFS && errno != ECONNREFUSED) {
            fail("flood: sendmmsg");
        }
        int taken;
        do {
            /* No buffers: the bytes are of no interest. */
            taken = recvmmsg(fd, in, BURST, MSG_DONTWAIT, NULL);
            replies += taken > 0 ? (uint64_t)taken : 0;
        } while (taken == BURST);
        now = seconds_now();
        while (per_second > 0 && (double)sent > (now - start) * per_second) {
            const struct timespec pause = {0, 200000};
            nanosleep(&pause, NULL);
            now = seconds_now();
        }
    }
    printf("%llu sent, %llu replies\n", (unsigned long long)sent, (unsigned long long)replies);
    return 0;
}
