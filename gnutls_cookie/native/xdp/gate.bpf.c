/* The gate below the socket: an XDP program that answers strangers before the kernel makes a socket
 * buffer of what they sent. It reads a ClientHello by the very function of the gate (gate.c), and
 * makes the very bytes that libgnutls would make: a HelloVerifyRequest whose cookie is HMAC-SHA1 of
 * the client's address. A hello with a good cookie, and whatever is no hello, passes on to the
 * socket; so does all that is odd in the headers below UDP.
 *
 * No state for a client. Needs Linux 5.18 (bpf_xdp_load_bytes). */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Inlined, so that the verifier knows the size of what is read. */
struct gcookie_hello;
static __always_inline int gcookie_parse(const uint8_t *datagram, size_t size,
                                         struct gcookie_hello *hello);
#include "../gate.c"
#include "gate.h"

char LICENSE[] SEC("license") = "LGPL-2.1-or-later";

/* What gcookie_parse reads at most, and the cookie behind it: 61 bytes, a session id, 16 bytes. */
#define HEAD_SIZE 128u

#define IPV4_HEADER_SIZE 20u
#define IPV6_HEADER_SIZE 40u
#define UDP_HEADER_SIZE 8u
#define VLAN_TAG_SIZE 4u
#define MAX_VLAN_TAGS 2u /* 802.1ad around 802.1Q */
#define IPV4_DONT_FRAGMENT 0x4000u
#define IPV4_IS_FRAGMENT 0xbfffu /* more fragments, an offset, or the reserved bit */
#define REPLY_HOP_LIMIT 64u

#define LINUX_AF_INET 2u
#define LINUX_AF_INET6 10u
#define SOCKADDR_IN_SIZE 16u
#define SOCKADDR_IN6_SIZE 28u

#define SHA1_BLOCK_SIZE 64u
#define SHA1_WORDS 16u
#define SHA1_END 0x80000000u /* FIPS 180-4, 5.1.1: a bit 1 behind the message */

#define TYPE_HELLO_VERIFY_REQUEST 3u
#define CONTENT_CHANGE_CIPHER_SPEC 20u
#define CONTENT_ALERT 21u
#define CONTENT_HEARTBEAT 24u

/* What is worked on lies here: it is too much for the 512 bytes of a program's stack. */
struct work {
    __u32 schedule[SHA1_WORDS];
    __u32 state[5];
    __u32 client_data[SHA1_WORDS]; /* in words of SHA-1, big-endian ones, zeros behind it */
    __u32 client_data_size;        /* bytes: 16, 28 or 64 */
    __u32 cookie[4];               /* as it is sent */
    __u8 head[HEAD_SIZE];
};

struct address {
    __u32 words[4]; /* network order; IPv4 as ::ffff:a.b.c.d */
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, GCOOKIE_XDP_KEY_SLOTS);
    __type(key, __u32);
    __type(value, struct gcookie_xdp_keys);
} gcookie_keys SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct gcookie_xdp_state);
} gcookie_state SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, GCOOKIE_XDP_PORT_WORDS);
    __type(key, __u32);
    __type(value, __u64);
} gcookie_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, GCOOKIE_XDP_MAX_ADDRESSES);
    __type(key, struct address);
    __type(value, __u8);
} gcookie_hosts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct gcookie_xdp_counts);
} gcookie_counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct work);
} gcookie_work SEC(".maps");

/* Where things are in the frame, from its start. */
struct frame {
    __u32 ip;
    __u32 udp;
    __u32 size; /* of the datagram: what is behind the UDP header */
    __u32 is_ipv6;
    __u16 source_port; /* network order, as the next */
    __u16 port;
    struct address source;
    struct address destination;
};

enum { NOT_OURS = 0, OURS = 1, ODD = 2 };

static __always_inline int read_headers(struct xdp_md *ctx, struct frame *frame);
static __always_inline int is_asked_for(__u16 port);
static __always_inline int is_usual(const struct address *address, int is_ipv6);
static __always_inline int judge_datagram(struct xdp_md *ctx, const struct frame *frame,
                                          const struct gcookie_xdp_state *settings,
                                          struct work *work, struct gcookie_xdp_counts *counts);
static __always_inline int is_junk(const __u8 *head, __u32 size, int reason);
static __always_inline void write_client_data(struct work *work, const struct frame *frame,
                                              __u32 flags);
static __always_inline void write_sockaddr(__u32 *to, const struct address *address, __u16 port,
                                           int is_in6);
static __noinline int make_cookie(struct work *work, const struct gcookie_xdp_key *key);
static __noinline int compress(struct work *work);
static __always_inline __u32 rotated_1(__u32 word);
static __always_inline int is_presented(const struct work *work, const struct gcookie_hello *hello);
static __always_inline int reply(struct xdp_md *ctx, const struct frame *frame,
                                 const __u32 cookie[4]);
static __always_inline __u16 checksum(__u64 sum);

SEC("xdp")
int gcookie_gate(struct xdp_md *ctx) {
    const __u32 only = 0;
    struct frame frame = {0};
    const int found = read_headers(ctx, &frame);
    if (found == NOT_OURS) {
        return XDP_PASS;
    }
    const struct gcookie_xdp_state *settings = bpf_map_lookup_elem(&gcookie_state, &only);
    struct gcookie_xdp_counts *counts = bpf_map_lookup_elem(&gcookie_counts, &only);
    struct work *work = bpf_map_lookup_elem(&gcookie_work, &only);
    if (!settings || !counts || !work) {
        return XDP_PASS;
    }
    if (settings->flags & GCOOKIE_XDP_ADDRESSES &&
        !bpf_map_lookup_elem(&gcookie_hosts, &frame.destination)) {
        return XDP_PASS;
    }
    if (found == ODD) {
        counts->untouched++;
        return XDP_PASS;
    }
    return judge_datagram(ctx, &frame, settings, work, counts);
}

/* Ethernet, tags, IP and UDP. OURS: a plain datagram to one of the ports. ODD: one to such a port
 * that no reply may be made for here. NOT_OURS: anything else; fragments (the rest of a datagram is
 * elsewhere), options and extension headers are among it. */
static __always_inline int read_headers(struct xdp_md *ctx, struct frame *frame) {
    const __u8 *const data = (const __u8 *)(long)ctx->data;
    const __u8 *const end = (const __u8 *)(long)ctx->data_end;
    const struct ethhdr *const ethernet = (const struct ethhdr *)data;
    if ((const __u8 *)(ethernet + 1) > end) {
        return NOT_OURS;
    }
    const int is_for_many = ethernet->h_dest[0] & 1;
    __u16 protocol = ethernet->h_proto;
    const __u8 *at = data + ETH_HLEN;
#pragma unroll
    for (__u32 tags = 0; tags < MAX_VLAN_TAGS; tags++) {
        if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD)) {
            break;
        }
        if (at + VLAN_TAG_SIZE > end) {
            return NOT_OURS;
        }
        protocol = *(const __u16 *)(at + 2); /* behind the tag control information */
        at += VLAN_TAG_SIZE;
    }
    frame->ip = (__u32)(at - data);

    __u32 udp_length;
    if (protocol == bpf_htons(ETH_P_IP)) {
        const struct iphdr *const ip = (const struct iphdr *)at;
        if (at + IPV4_HEADER_SIZE + UDP_HEADER_SIZE > end || ip->version != 4 ||
            ip->ihl * 4 != IPV4_HEADER_SIZE || ip->protocol != IPPROTO_UDP ||
            ip->frag_off & bpf_htons(IPV4_IS_FRAGMENT)) {
            return NOT_OURS;
        }
        frame->source.words[2] = frame->destination.words[2] = bpf_htonl(0xffff);
        frame->source.words[3] = ip->saddr;
        frame->destination.words[3] = ip->daddr;
        udp_length = (__u32)bpf_ntohs(ip->tot_len) - IPV4_HEADER_SIZE;
        at += IPV4_HEADER_SIZE;
    } else if (protocol == bpf_htons(ETH_P_IPV6)) {
        const struct ipv6hdr *const ip = (const struct ipv6hdr *)at;
        if (at + IPV6_HEADER_SIZE + UDP_HEADER_SIZE > end || ip->version != 6 ||
            ip->nexthdr != IPPROTO_UDP) {
            return NOT_OURS;
        }
        frame->is_ipv6 = 1;
        __builtin_memcpy(&frame->source, &ip->saddr, sizeof frame->source);
        __builtin_memcpy(&frame->destination, &ip->daddr, sizeof frame->destination);
        udp_length = bpf_ntohs(ip->payload_len);
        at += IPV6_HEADER_SIZE;
    } else {
        return NOT_OURS;
    }

    const struct udphdr *const udp = (const struct udphdr *)at;
    if (at + UDP_HEADER_SIZE > end || !is_asked_for(udp->dest)) {
        return NOT_OURS;
    }
    frame->udp = (__u32)(at - data);
    frame->source_port = udp->source;
    frame->port = udp->dest;
    frame->size = udp_length - UDP_HEADER_SIZE;
    /* A length that disagrees with IP's, a port 0 that nothing can be sent to, no checksum where
     * IPv6 demands one (RFC 8200, 8.1): the kernel knows what to do with it. */
    if (udp_length < UDP_HEADER_SIZE || udp_length != bpf_ntohs(udp->len) ||
        frame->size > (__u32)(end - data) - frame->udp - UDP_HEADER_SIZE || udp->source == 0 ||
        (frame->is_ipv6 && udp->check == 0) || is_for_many ||
        !is_usual(&frame->source, (int)frame->is_ipv6) ||
        !is_usual(&frame->destination, (int)frame->is_ipv6)) {
        return ODD;
    }
    return OURS;
}

static __always_inline int is_asked_for(__u16 port) {
    const __u32 number = bpf_ntohs(port);
    const __u32 word = number / 64;
    const __u64 *const bits = bpf_map_lookup_elem(&gcookie_ports, &word);
    return bits && *bits >> (number % 64) & 1;
}

/* Whether it is of one host, and not loopback; nor IPv6 link-local, whose cookie has a scope:
 * RFC 6890. */
static __always_inline int is_usual(const struct address *address, int is_ipv6) {
    if (!is_ipv6) {
        const __u32 ip = bpf_ntohl(address->words[3]);
        return ip >> 24 != 0 && ip >> 24 != 127 && ip >> 28 < 14;
    }
    const __u32 first = bpf_ntohl(address->words[0]);
    /* ::/64 holds ::, ::1 and what stands for IPv4 inside a host. */
    return (first != 0 || address->words[1] != 0) && first >> 24 != 0xff &&
           first >> 22 != 0xfe80u >> 6;
}

static __always_inline int judge_datagram(struct xdp_md *ctx, const struct frame *frame,
                                          const struct gcookie_xdp_state *settings,
                                          struct work *work, struct gcookie_xdp_counts *counts) {
    __u32 size = frame->size;
    __u32 head_size = size < HEAD_SIZE ? size : HEAD_SIZE;
    if (head_size > 0 &&
        bpf_xdp_load_bytes(ctx, frame->udp + UDP_HEADER_SIZE, work->head, head_size) < 0) {
        counts->untouched++;
        return XDP_PASS;
    }
    struct gcookie_hello hello = {0};
    const int reason = gcookie_parse(work->head, size, &hello);
    if (reason != GCOOKIE_OK) {
        if (reason > 0 && reason <= GCOOKIE_INTERNAL) {
            counts->passed[reason]++;
        }
        if (settings->flags & GCOOKIE_XDP_DROP_JUNK && is_junk(work->head, size, reason)) {
            counts->dropped++;
            return XDP_DROP;
        }
        return XDP_PASS;
    }

    const __u32 active = settings->active;
    const struct gcookie_xdp_keys *const keys = bpf_map_lookup_elem(&gcookie_keys, &active);
    /* Older than a server would accept: a client challenged here would be challenged there, and
     * never come in. */
    if (!keys || bpf_ktime_get_boot_ns() >= keys->until_ns) {
        counts->expired++;
        return XDP_PASS;
    }

    write_client_data(work, frame, settings->flags);
    /* As in gate.c: a record sequence of more than 32 bits cannot be handed over. And as in
     * lib/dtls.c, which takes no cookie that the datagram ends with. */
    const int may_fit = hello.cookie_size == GCOOKIE_SIZE && hello.record_seq <= UINT32_MAX &&
                        size > hello.cookie_offset + GCOOKIE_SIZE;
    make_cookie(work, &keys->current);
    if (may_fit && is_presented(work, &hello)) {
        counts->verified[0]++;
        return XDP_PASS;
    }
    __u32 cookie[4];
    __builtin_memcpy(cookie, work->cookie, sizeof cookie);
    if (may_fit && keys->has_previous) {
        make_cookie(work, &keys->previous);
        if (is_presented(work, &hello)) {
            counts->verified[1]++;
            return XDP_PASS;
        }
    }
    counts->challenged++;
    if (hello.cookie_size > 0) {
        counts->presented++;
    }
    return reply(ctx, frame, cookie);
}

/* What neither a handshake nor a session of libgnutls could want, whatever the state it is in.
 * Records of epoch 1 and later are judged by their first bytes only. `reason` is the gate's. */
static __always_inline int is_junk(const __u8 *head, __u32 size, int reason) {
    switch (reason) {
    case GCOOKIE_RECORD_HEADER:
    case GCOOKIE_RECORD_VERSION:
    case GCOOKIE_RECORD_LENGTH:
    case GCOOKIE_HANDSHAKE_HEADER:
    case GCOOKIE_FRAGMENT_LENGTH:
    case GCOOKIE_TRAILING_DATA:
    case GCOOKIE_SESSION_ID:
    case GCOOKIE_COOKIE_FIELD:
        return 1;
    case GCOOKIE_CONTENT_TYPE:
        break;
    default: /* another handshake message, a later fragment, an epoch with keys */
        return 0;
    }
    const __u32 type = head[0];
    const __u32 version = be16(head + 1);
    const int has_keys = be16(head + 3) != 0;
    return type < CONTENT_CHANGE_CIPHER_SPEC || type > CONTENT_HEARTBEAT ||
           (type > CONTENT_ALERT && !has_keys) ||
           (version != 0xfeffu && version != 0xfefdu && version != 0x0100u) ||
           RECORD_HEADER_SIZE + be16(head + 11) > size;
}

/* The client's address as the server's socket would show it, in the layout that the server has. */
static __always_inline void write_client_data(struct work *work, const struct frame *frame,
                                              __u32 flags) {
    __u32 *const to = work->client_data;
    __builtin_memset(to, 0, sizeof work->client_data);
    const int is_in6 = frame->is_ipv6 || flags & GCOOKIE_XDP_MAPPED;
    if (flags & GCOOKIE_XDP_COAP) {
        /* libcoap's coap_addr_tuple_t: the remote and the local coap_address_t, a socklen_t and a
         * sockaddr in the room of the largest. */
        const __u32 length = is_in6 ? SOCKADDR_IN6_SIZE : SOCKADDR_IN_SIZE;
        to[0] = to[8] = bpf_htonl(length);
        write_sockaddr(to + 1, &frame->source, frame->source_port, is_in6);
        write_sockaddr(to + 9, &frame->destination, frame->port, is_in6);
        work->client_data_size = SHA1_BLOCK_SIZE;
        return;
    }
    write_sockaddr(to, &frame->source, frame->source_port, is_in6);
    work->client_data_size = is_in6 ? SOCKADDR_IN6_SIZE : SOCKADDR_IN_SIZE;
}

/* sockaddr_in, or sockaddr_in6 without flow information and scope: sin6_flowinfo is 0 in what
 * recvmsg() writes. */
static __always_inline void write_sockaddr(__u32 *to, const struct address *address, __u16 port,
                                           int is_in6) {
    const __u32 family = is_in6 ? LINUX_AF_INET6 : LINUX_AF_INET; /* the host's order */
    to[0] = (__u32)bpf_htons((__u16)family) << 16 | bpf_ntohs(port);
    if (is_in6) {
        to[2] = bpf_ntohl(address->words[0]);
        to[3] = bpf_ntohl(address->words[1]);
        to[4] = bpf_ntohl(address->words[2]);
        to[5] = bpf_ntohl(address->words[3]);
    } else {
        to[1] = bpf_ntohl(address->words[3]);
    }
}

/* HMAC-SHA1 of client_data (RFC 2104), cut to 16 bytes as lib/dtls.c does. */
static __noinline int make_cookie(struct work *work, const struct gcookie_xdp_key *key) {
    if (!work || !key) {
        return 0;
    }
    __builtin_memcpy(work->state, key->inner, sizeof work->state);
    __builtin_memcpy(work->schedule, work->client_data, sizeof work->schedule);
    const __u32 size = work->client_data_size;
    if (size == SHA1_BLOCK_SIZE) {
        compress(work);
        __builtin_memset(work->schedule, 0, sizeof work->schedule);
        work->schedule[0] = SHA1_END;
    } else if (size == SOCKADDR_IN6_SIZE) {
        work->schedule[SOCKADDR_IN6_SIZE / 4] = SHA1_END;
    } else {
        work->schedule[SOCKADDR_IN_SIZE / 4] = SHA1_END;
    }
    work->schedule[SHA1_WORDS - 1] =
        (SHA1_BLOCK_SIZE + size) * 8; /* in bits, the key's block too */
    compress(work);

    __builtin_memset(work->schedule, 0, sizeof work->schedule);
    __builtin_memcpy(work->schedule, work->state, sizeof work->state);
    work->schedule[5] = SHA1_END;
    work->schedule[SHA1_WORDS - 1] = (SHA1_BLOCK_SIZE + sizeof work->state) * 8;
    __builtin_memcpy(work->state, key->outer, sizeof work->state);
    compress(work);
    for (__u32 at = 0; at < 4; at++) {
        work->cookie[at] = bpf_htonl(work->state[at]);
    }
    return 0;
}

static __always_inline __u32 rotated_1(__u32 word) {
    return word << 1 | word >> 31;
}

/* BPF has no rotation. Of a word that stands twice in 64 bits one is a shift, and a new `a` is
 * rotated twice: by 5 in its own round, by 30 in the one after the next. */
#define TWICE(x) ((__u64)(x) << 32 | (x))
#define SCHEDULED(t)                                                                               \
    ((t) < 16 ? w[(t)]                                                                             \
              : (w[(t) & 15] = rotated_1(w[((t) + 13) & 15] ^ w[((t) + 8) & 15] ^                  \
                                         w[((t) + 2) & 15] ^ w[(t) & 15])))
/* All but the rotation is added before it, as only that waits for the round before: what looks like
 * an assembler's line keeps the compiler from adding in another order. */
#define ROUND(f, k, t)                                                                             \
    {                                                                                              \
        __u32 sum = e + (k) + SCHEDULED(t) + (f);                                                  \
        asm volatile("" : "+r"(sum));                                                              \
        sum += (__u32)(a_twice >> 27);                                                             \
        e = d;                                                                                     \
        d = c;                                                                                     \
        c = (__u32)(b_twice >> 2);                                                                 \
        b = (__u32)a_twice;                                                                        \
        b_twice = a_twice;                                                                         \
        a_twice = TWICE(sum);                                                                      \
    }

/* One block of SHA-1 (FIPS 180-4, 6.1.2), with the schedule made in place (6.1.3). */
static __noinline int compress(struct work *work) {
    if (!work) {
        return 0;
    }
    /* volatile: the compiler would keep the schedule on the stack, which is too small. */
    volatile __u32 *const w = work->schedule;
    __u32 b = work->state[1], c = work->state[2], d = work->state[3], e = work->state[4];
    __u64 a_twice = TWICE(work->state[0]), b_twice = TWICE(b);
#pragma unroll
    for (int t = 0; t < 20; t++)
        ROUND(d ^ (b & (c ^ d)), 0x5a827999u, t)
#pragma unroll
    for (int t = 20; t < 40; t++)
        ROUND(b ^ c ^ d, 0x6ed9eba1u, t)
#pragma unroll
    for (int t = 40; t < 60; t++)
        ROUND((b & c) | (d & (b | c)), 0x8f1bbcdcu, t)
#pragma unroll
    for (int t = 60; t < 80; t++)
        ROUND(b ^ c ^ d, 0xca62c1d6u, t)
    work->state[0] += (__u32)a_twice;
    work->state[1] += b;
    work->state[2] += c;
    work->state[3] += d;
    work->state[4] += e;
    return 0;
}

/* Whether the hello has this cookie; the time that it takes does not tell how much of it fits. */
static __always_inline int is_presented(const struct work *work,
                                        const struct gcookie_hello *hello) {
    const __u32 at = (__u32)hello->cookie_offset;
    if (at > HEAD_SIZE - GCOOKIE_SIZE) { /* never: 61 + 32 is less; for the verifier */
        return 0;
    }
    __u32 presented[4];
    __builtin_memcpy(presented, work->head + at, sizeof presented);
    return ((presented[0] ^ work->cookie[0]) | (presented[1] ^ work->cookie[1]) |
            (presented[2] ^ work->cookie[2]) | (presented[3] ^ work->cookie[3])) == 0;
}

/* Turns the frame into the answer: addresses and ports swapped, 44 bytes of HelloVerifyRequest,
 * lengths and checksums made anew, the rest cut off. */
static __always_inline int reply(struct xdp_md *ctx, const struct frame *frame,
                                 const __u32 cookie[4]) {
    __u8 *const data = (__u8 *)(long)ctx->data;
    const __u8 *const end = (const __u8 *)(long)ctx->data_end;
    struct ethhdr *const ethernet = (struct ethhdr *)data;
    const __u32 ip_offset = frame->ip;
    if (ip_offset > ETH_HLEN + MAX_VLAN_TAGS * VLAN_TAG_SIZE) {
        return XDP_PASS;
    }
    const __u32 ip_header_size = frame->is_ipv6 ? IPV6_HEADER_SIZE : IPV4_HEADER_SIZE;
    __u8 *const ip_start = data + ip_offset;
    __u8 *const udp_start = ip_start + ip_header_size;
    __u8 *const message = udp_start + UDP_HEADER_SIZE;
    if ((const __u8 *)(ethernet + 1) > end || message + GCOOKIE_REPLY_SIZE > end) {
        return XDP_PASS;
    }
    const int surplus = (int)(end - data) -
                        (int)(ip_offset + ip_header_size + UDP_HEADER_SIZE + GCOOKIE_REPLY_SIZE);

    __u8 hardware[ETH_ALEN];
    __builtin_memcpy(hardware, ethernet->h_dest, ETH_ALEN);
    __builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, hardware, ETH_ALEN);

    /* RFC 6347, 4.1 and 4.2.1. record_seq, message_seq and a
     * fragment_offset of 0 are the hello's, and stay. */
    message[1] = 0xfe;
    message[2] = 0xff;
    message[11] = 0;
    message[12] = GCOOKIE_REPLY_SIZE - RECORD_HEADER_SIZE;
    message[13] = TYPE_HELLO_VERIFY_REQUEST;
    message[14] = message[15] = 0;
    message[16] = GCOOKIE_REPLY_SIZE - BODY;
    message[22] = message[23] = 0;
    message[24] = GCOOKIE_REPLY_SIZE - BODY;
    message[25] = 0xfe;
    message[26] = 0xff;
    message[27] = GCOOKIE_SIZE;
    __builtin_memcpy(message + REPLY_COOKIE, cookie, GCOOKIE_SIZE);

    struct udphdr *const udp = (struct udphdr *)udp_start;
    udp->source = frame->port;
    udp->dest = frame->source_port;
    udp->len = bpf_htons(UDP_HEADER_SIZE + GCOOKIE_REPLY_SIZE);
    udp->check = 0;
    __u64 sum = (__u64)udp->len + bpf_htons(IPPROTO_UDP); /* RFC 768, RFC 8200 8.1 */
#pragma unroll
    for (__u32 at = 0; at < UDP_HEADER_SIZE + GCOOKIE_REPLY_SIZE; at += 2) {
        sum += *(const __u16 *)(udp_start + at);
    }
#pragma unroll
    for (__u32 at = 0; at < 4; at++) {
        if (at == 3 || frame->is_ipv6) { /* of IPv4 the last word alone */
            sum += (__u64)frame->source.words[at] + frame->destination.words[at];
        }
    }
    const __u16 check = checksum(sum);
    udp->check = check ? check : 0xffff;

    if (frame->is_ipv6) {
        struct ipv6hdr *const ip = (struct ipv6hdr *)ip_start;
        *(__u32 *)ip_start = bpf_htonl(6u << 28); /* neither class nor flow label */
        ip->payload_len = udp->len;
        ip->hop_limit = REPLY_HOP_LIMIT;
        __builtin_memcpy(&ip->saddr, &frame->destination, sizeof ip->saddr);
        __builtin_memcpy(&ip->daddr, &frame->source, sizeof ip->daddr);
    } else {
        struct iphdr *const ip = (struct iphdr *)ip_start;
        ip->tos = 0;
        ip->tot_len = bpf_htons(IPV4_HEADER_SIZE + UDP_HEADER_SIZE + GCOOKIE_REPLY_SIZE);
        ip->id = 0; /* RFC 6864, 4.1: an atomic datagram needs none */
        ip->frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
        ip->ttl = REPLY_HOP_LIMIT;
        ip->saddr = frame->destination.words[3];
        ip->daddr = frame->source.words[3];
        ip->check = 0;
        __u64 header = 0;
#pragma unroll
        for (__u32 at = 0; at < IPV4_HEADER_SIZE; at += 2) {
            header += *(const __u16 *)(ip_start + at);
        }
        ip->check = checksum(header);
    }
    return bpf_xdp_adjust_tail(ctx, -surplus) == 0 ? XDP_TX : XDP_DROP;
}

/* RFC 1071, of a sum of words of 16 or 32 bits. */
static __always_inline __u16 checksum(__u64 sum) {
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (__u16)~sum;
}
