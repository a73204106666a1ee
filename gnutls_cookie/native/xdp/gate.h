/* What the program in the kernel (gate.bpf.c) and who loads it (gnutls_cookie/xdp.py) share: the
 * values of the maps. All integers are the host's; there is no padding but what is named. */
#ifndef GCOOKIE_XDP_GATE_H
#define GCOOKIE_XDP_GATE_H

#include <linux/types.h>

/* Names have 15 characters at most (BPF_OBJ_NAME_LEN). The program is gcookie_gate. */
#define GCOOKIE_XDP_KEY_SLOTS 2
#define GCOOKIE_XDP_PORT_WORDS 1024 /* a bit for each port: 64 of a word */
#define GCOOKIE_XDP_MAX_ADDRESSES 256

/* HMAC-SHA1 under a key is two SHA-1 computations, each of which begins with one block made of the
 * key (RFC 2104, 2). These are the states after that block; the key itself is not in the kernel. */
struct gcookie_xdp_key {
    __u32 inner[5];
    __u32 outer[5];
};

/* gcookie_keys[2]: one slot is in use, the other is written before it is used. */
struct gcookie_xdp_keys {
    struct gcookie_xdp_key current;  /* signs and verifies */
    struct gcookie_xdp_key previous; /* verifies only */
    __u64 until_ns;                  /* CLOCK_BOOTTIME; from then on every hello passes */
    __u32 has_previous;
    __u32 unused;
};

enum gcookie_xdp_flags {
    GCOOKIE_XDP_MAPPED = 1, /* IPv4 clients are ::ffff:a.b.c.d, as a dual-stack socket shows them */
    GCOOKIE_XDP_COAP = 2,   /* client_data is libcoap's coap_addr_tuple_t, not a sockaddr */
    GCOOKIE_XDP_DROP_JUNK = 4, /* drop what no session could want */
    GCOOKIE_XDP_ADDRESSES = 8, /* only datagrams to the addresses in gcookie_hosts */
};

/* gcookie_state[1] */
struct gcookie_xdp_state {
    __u32 active; /* which slot of gcookie_keys */
    __u32 flags;
};

/* gcookie_counts[1], for each processor. What becomes of UDP datagrams to the ports. */
struct gcookie_xdp_counts {
    __u64 passed[15];  /* by enum gcookie_reason of gate.h; [0] is not used */
    __u64 challenged;  /* answered with a HelloVerifyRequest */
    __u64 presented;   /* of these: for a hello that carried a cookie */
    __u64 verified[2]; /* passed: a good cookie of the current, of the previous key */
    __u64 dropped;     /* of passed[]: those that were not passed but dropped as junk */
    __u64 expired;     /* hellos that passed with any cookie: the keys are too old */
    __u64 untouched;   /* passed: link-local, multicast, odd lengths ... */
};

#endif
