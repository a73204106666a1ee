/* What a peer's certificates may cost, before anybody knows whether they are to be trusted: seconds
 * or minutes of libgnutls, else, for one flight of somebody who only has an address. */
#ifndef GNUTLS_COOKIE_COSTS_H
#define GNUTLS_COOKIE_COSTS_H

#include <stddef.h>
#include <gnutls/gnutls.h>

/* 1: the body of a Certificate message (RFC 5246 7.4.2) has more certificates and elements of DER
 * than certificates have. libgnutls takes the square of their number in time: for names, key
 * purposes, extensions (lib/x509). */
int gcookie_costs_certificates(const unsigned char *body, size_t size, int is_server);

/* 1: the key of the peer's certificate makes the check of a signature long: RSA takes the modulus
 * squared times the exponent in time, and libgnutls has no bound for either. */
int gcookie_costs_key(gnutls_session_t session);

#endif
