/* Datagrams that stand anywhere, out by a UDP socket: many in one system call, and on Linux several
 * of one size to one peer as one message, which the kernel cuts (UDP_SEGMENT). */
#ifndef GNUTLS_COOKIE_SEND_H
#define GNUTLS_COOKIE_SEND_H

#include "turn.h"

struct gcookie_datagram {
    const struct gcookie_path *path;
    const unsigned char *data;
    size_t size;
};

/* Returns how many the kernel did not take: they are lost, as the network loses some. */
unsigned int gcookie_send_each(int fd, const struct gcookie_datagram *datagrams, size_t count);

#endif
