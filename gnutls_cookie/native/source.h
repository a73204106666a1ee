/* The address that a datagram was sent to, and that its answer must come from. A socket bound to
 * the wildcard address has many, the kernel would choose one by its routes, and a client that has
 * connected its socket to another never sees the answer. */
#ifndef GNUTLS_COOKIE_SOURCE_H
#define GNUTLS_COOKIE_SOURCE_H

#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

enum {
    GCOOKIE_CONTROL_IN = 256, /* bytes: what else a caller may have asked for comes there too */
    GCOOKIE_CONTROL_OUT = 64
};

struct gcookie_source {
    unsigned int size; /* 4 or 16, as the socket's family has it; 0: unknown, the kernel chooses */
    unsigned int zone; /* the interface of a link-local IPv6 address (RFC 4007 6); of others 0 */
    unsigned char ip[16];
};

/* Room for what goes with a message. */
union gcookie_control_in {
    struct cmsghdr first;
    unsigned char bytes[GCOOKIE_CONTROL_IN];
};
union gcookie_control_out {
    struct cmsghdr first;
    unsigned char bytes[GCOOKIE_CONTROL_OUT];
};

/* Whether the socket is bound to the wildcard address and tells from now on which address each
 * datagram was sent to. */
int gcookie_source_watch(int fd);

/* What came with a message that was received. */
void gcookie_source_read(const struct msghdr *message, struct gcookie_source *out);

/* Have a message sent from there. `room` lives as long as the message. */
void gcookie_source_write(struct msghdr *message, union gcookie_control_out *room,
                          const struct gcookie_source *source);

#endif
