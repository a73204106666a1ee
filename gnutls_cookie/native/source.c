#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* struct in6_pktinfo */
#endif
#define __APPLE_USE_RFC_3542 /* macOS: IPV6_RECVPKTINFO */
#include "source.h"

#include <string.h>

/* IPv4: IP_PKTINFO of Linux and macOS, or IP_RECVDSTADDR and IP_SENDSRCADDR of the BSDs. IPv6: RFC
 * 3542 6.1, on Linux for mapped IPv4 addresses as well. */

static int is_wildcard(const struct sockaddr_in6 *address) {
    return memcmp(&address->sin6_addr, &in6addr_any, sizeof in6addr_any) == 0;
}

int gcookie_source_watch(int fd) {
    union {
        struct sockaddr any;
        struct sockaddr_in ipv4;
        struct sockaddr_in6 ipv6;
    } address;
    socklen_t size = sizeof address;
    const int on = 1;

    memset(&address, 0, sizeof address);
    if (getsockname(fd, &address.any, &size) != 0) {
        return 0;
    }
    if (address.any.sa_family == AF_INET && address.ipv4.sin_addr.s_addr == htonl(INADDR_ANY)) {
#if defined(IP_PKTINFO)
        return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on) == 0;
#elif defined(IP_SENDSRCADDR)
        return setsockopt(fd, IPPROTO_IP, IP_RECVDSTADDR, &on, sizeof on) == 0;
#endif
    }
#ifdef IPV6_RECVPKTINFO
    if (address.any.sa_family == AF_INET6 && is_wildcard(&address.ipv6)) {
#if defined(IP_PKTINFO)
        (void)setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on); /* see gcookie_source_read */
#endif
        return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) == 0;
    }
#endif
    return 0;
}

static void set(struct gcookie_source *out, const void *ip, unsigned int size) {
    memcpy(out->ip, ip, size);
    out->size = size;
}

static int holds(const struct cmsghdr *one, int level, int type, size_t size) {
    return one->cmsg_level == level && one->cmsg_type == type && one->cmsg_len >= CMSG_LEN(size);
}

void gcookie_source_read(const struct msghdr *message, struct gcookie_source *out) {
    struct msghdr *header = (struct msghdr *)message; /* CMSG_NXTHDR of some systems wants it so */
    memset(out, 0, sizeof *out); /* those of one address are compared as bytes */
    for (struct cmsghdr *one = CMSG_FIRSTHDR(header); one != NULL; one = CMSG_NXTHDR(header, one)) {
#if defined(IP_PKTINFO)
        if (holds(one, IPPROTO_IP, IP_PKTINFO, sizeof(struct in_pktinfo))) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(one), sizeof info);
            /* Not ipi_addr: where that is a broadcast address, this one is ours. With a mapped
             * address it comes behind the other one (net/ipv6/udp.c). */
            if (out->size == sizeof(struct in6_addr)) {
                memcpy(out->ip + 12, &info.ipi_spec_dst, sizeof info.ipi_spec_dst);
            } else {
                set(out, &info.ipi_spec_dst, sizeof info.ipi_spec_dst);
            }
        }
#elif defined(IP_SENDSRCADDR)
        if (holds(one, IPPROTO_IP, IP_RECVDSTADDR, sizeof(struct in_addr))) {
            set(out, CMSG_DATA(one), sizeof(struct in_addr));
        }
#endif
#ifdef IPV6_RECVPKTINFO
        if (holds(one, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(struct in6_pktinfo))) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(one), sizeof info);
            if (!IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) {
                set(out, &info.ipi6_addr, sizeof info.ipi6_addr);
                /* Without it Linux sends nothing from such an address to one that is not link-local
                 * as well (net/ipv6/datagram.c). Of others the routes decide, as for a reply they
                 * may name another interface. */
                if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) {
                    out->zone = (unsigned int)info.ipi6_ifindex;
                }
            }
        }
#endif
    }
}

void gcookie_source_write(struct msghdr *message, union gcookie_control_out *room,
                          const struct gcookie_source *source) {
    struct cmsghdr *one = &room->first;
    const unsigned int size = source->size;
    size_t written = 0;

    message->msg_control = NULL;
    message->msg_controllen = 0;
    if (size == 0) {
        return;
    }
    memset(room, 0, sizeof *room);
#if defined(IP_PKTINFO)
    if (size == sizeof(struct in_addr)) {
        struct in_pktinfo info;
        memset(&info, 0, sizeof info); /* the interface is for the kernel to choose */
        memcpy(&info.ipi_spec_dst, source->ip, size);
        one->cmsg_level = IPPROTO_IP;
        one->cmsg_type = IP_PKTINFO;
        written = sizeof info;
        memcpy(CMSG_DATA(one), &info, written);
    }
#elif defined(IP_SENDSRCADDR)
    if (size == sizeof(struct in_addr)) {
        one->cmsg_level = IPPROTO_IP;
        one->cmsg_type = IP_SENDSRCADDR;
        written = size;
        memcpy(CMSG_DATA(one), source->ip, written);
    }
#endif
#ifdef IPV6_RECVPKTINFO
    if (size == sizeof(struct in6_addr)) {
        struct in6_pktinfo info;
        memset(&info, 0, sizeof info);
        memcpy(&info.ipi6_addr, source->ip, size);
        info.ipi6_ifindex = source->zone;
        one->cmsg_level = IPPROTO_IPV6;
        one->cmsg_type = IPV6_PKTINFO;
        written = sizeof info;
        memcpy(CMSG_DATA(one), &info, written);
    }
#endif
    if (written > 0) {
        one->cmsg_len = CMSG_LEN(written);
        message->msg_control = room->bytes;
        message->msg_controllen = CMSG_SPACE(written);
    }
}
