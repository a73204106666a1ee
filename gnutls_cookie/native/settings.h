/* What sessions are made with: credentials, a priority string as libgnutls has parsed it, names and
 * times. Each is counted by those that hold it: a session that goes on after its server was given
 * other credentials keeps its own. From any thread. */
#ifndef GNUTLS_COOKIE_SETTINGS_H
#define GNUTLS_COOKIE_SETTINGS_H

#include "transport.h"

enum gcookie_shared_kind {
    GCOOKIE_CERTIFICATES = 1, /* gnutls_certificate_credentials_t */
    GCOOKIE_PSK_SERVER = 2,   /* gnutls_psk_server_credentials_t; see gcookie_psk_lookup */
    GCOOKIE_PSK_CLIENT = 3,   /* gnutls_psk_client_credentials_t */
    GCOOKIE_PRIORITY = 4,     /* gnutls_priority_t */
    GCOOKIE_ANON_SERVER = 5,  /* gnutls_anon_server_credentials_t */
    GCOOKIE_ANON_CLIENT = 6,  /* gnutls_anon_client_credentials_t */
};

struct gcookie_shared {
    void *pointer;
    int kind;
    size_t holders;
};

/* New credentials of a kind above, without anything in them. 0, or an error. */
int gcookie_shared_credentials(struct gcookie_shared **box, int kind);

/* A priority string; where it is not understood, *position leads into it. */
int gcookie_shared_priority(struct gcookie_shared **box, const char *text, const char **position);

/* One holder fewer; *box is NULL then. */
void gcookie_shared_release(struct gcookie_shared **box);

enum { GCOOKIE_CREDENTIALS = 3 }; /* certificates, shared keys, none */

enum { GCOOKIE_TICKET_KEY_SIZE = 64 }; /* lib/gnutls_int.h: TICKET_MASTER_KEY_SIZE */

/* lib/ext/alpn.h: MAX_ALPN_PROTOCOLS, and one less than MAX_ALPN_PROTOCOL_NAME (bytes). */
enum { GCOOKIE_ALPN_MOST = 8, GCOOKIE_ALPN_NAME_MOST = 31 };
enum { GCOOKIE_ALPN_ALWAYS = 1, GCOOKIE_ALPN_OFFERED = 2 }; /* when one of them is required */

/* Texts of settings. */
enum gcookie_text_kind {
    GCOOKIE_NAME,   /* of a client: the name in the server's certificate */
    GCOOKIE_SNI,    /* of a client: the name in the extension (RFC 6066) */
    GCOOKIE_SERVED, /* of a server: the names that it goes by, each with its NUL */
    GCOOKIE_SRTP, /* profiles of DTLS-SRTP (RFC 5764), as gnutls_srtp_set_profile_direct has them */
    GCOOKIE_MEETS, /* of a client: what tells those whom it trusts from others, for tickets */
    GCOOKIE_TEXTS,
};

struct gcookie_text {
    char *data; /* with a NUL behind it; or NULL */
    size_t size;
};

struct gcookie_settings {
    int is_server;
    int verify_peer;  /* the peer's certificate must be trusted */
    int request;      /* of a server: gnutls_certificate_request_t */
    int raw_keys;     /* the priority may agree on raw public keys (RFC 7250) */
    unsigned int mtu; /* bytes; 0: libgnutls' default */
    uintptr_t number; /* never given before: which lookup a server asks */
    double retransmit_seconds;
    double handshake_seconds;
    struct gcookie_text texts[GCOOKIE_TEXTS];
    size_t record_size;                     /* bytes of the largest record to accept; 0: any */
    gnutls_datum_t alpn[GCOOKIE_ALPN_MOST]; /* names of protocols (RFC 7301); the bytes are ours */
    unsigned int alpn_count;
    int alpn_required; /* GCOOKIE_ALPN_ALWAYS, or where the peer names any; 0: no */
    int has_ticket_key;
    unsigned char ticket_key[GCOOKIE_TICKET_KEY_SIZE];
    double ticket_seconds;     /* a random key's life; 0: it stays */
    double ticket_until;       /* of the caller's clock; 0: not begun */
    gnutls_datum_t *peer_keys; /* SubjectPublicKeyInfo in DER that a peer may prove itself with */
    size_t peer_keys_count;
    gnutls_datum_t resume; /* of a client: what gnutls_session_get_data2 gave; ours */
    /* Of a server that shares one key, and asks nobody: NULL where lookups go to Python. Ours. */
    gnutls_datum_t psk_identity, psk_key;
    struct gcookie_shared *priority;
    struct gcookie_shared *credentials[GCOOKIE_CREDENTIALS];
    size_t holders;
};

/* 0, or GNUTLS_E_MEMORY_ERROR. */
int gcookie_settings_new(struct gcookie_settings **box);
int gcookie_settings_set_text(struct gcookie_settings *settings, unsigned int kind,
                              const char *text, size_t size);

/* One more protocol: at most GCOOKIE_ALPN_MOST of 1..GCOOKIE_ALPN_NAME_MOST bytes, else
 * GNUTLS_E_INVALID_REQUEST. */
int gcookie_settings_add_alpn(struct gcookie_settings *settings, const unsigned char *name,
                              size_t size);

/* One more raw public key that is trusted. 0, or GNUTLS_E_MEMORY_ERROR. */
int gcookie_settings_add_peer_key(struct gcookie_settings *settings, const unsigned char *key,
                                  size_t size);

/* What a client resumes from. 0, or GNUTLS_E_MEMORY_ERROR. */
int gcookie_settings_set_resume(struct gcookie_settings *settings, const unsigned char *data,
                                size_t size);

/* The one client that a server shares a key with. 0, or GNUTLS_E_MEMORY_ERROR. */
int gcookie_settings_set_psk(struct gcookie_settings *settings, const unsigned char *identity,
                             size_t identity_size, const unsigned char *key, size_t key_size);

/* A new random ticket key where the life of the one before is over. Where there is none to be had
 * tickets end. */
void gcookie_settings_renew_ticket_key(struct gcookie_settings *settings, double now);

/* Credentials (at most GCOOKIE_CREDENTIALS) and the priority. One holder more. */
void gcookie_settings_add(struct gcookie_settings *settings, struct gcookie_shared *shared);

void gcookie_settings_hold(struct gcookie_settings *settings);
void gcookie_settings_release(struct gcookie_settings **box);

/* For gnutls_psk_set_server_credentials_function2: in wire.c. Where the settings have no key it
 * asks Python, by the handle of the call. */
int gcookie_psk_lookup(gnutls_session_t session, const gnutls_datum_t *username,
                       gnutls_datum_t *key);

#endif
