/* The wire of a session in C: push into a buffer, pull from the one datagram of the call. */
#include "wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Defined by the generated module: extern "Python+C" in ffi.cdef. */
extern int gc_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                     gnutls_datum_t *key);

enum { RECORD_HEADER = 13 }; /* bytes; the last two are the record's length (RFC 6347 4.1) */
enum { STEPS = 1024 }; /* of libgnutls in one call: many alerts in one datagram end somewhere */

/* --- what libgnutls calls --------------------------------------------------------------------- */

/* Room for `more` bytes in the seat; 0 where there is no memory. */
static int make_room(struct gc_seat *seat, size_t more) {
    size_t capacity = seat->out_capacity;
    unsigned char *grown;

    if (more <= capacity - seat->out_size)
        return 1;
    while (more > capacity - seat->out_size) {
        if (capacity > SIZE_MAX / 2)
            return 0;
        capacity *= 2;
    }
    grown = realloc(seat->out == seat->first ? NULL : seat->out, capacity);
    if (grown == NULL)
        return 0;
    if (seat->out == seat->first)
        memcpy(grown, seat->first, seat->out_size);
    seat->out = grown;
    seat->out_capacity = capacity;
    return 1;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct gc_wire *wire = ptr;
    struct gc_seat *seat = wire->seat;
    uint32_t prefix = (uint32_t)size;

    /* Without a seat somebody called libgnutls on the session past this file. */
    if (seat == NULL || size > UINT16_MAX || !make_room(seat, sizeof prefix + size)) {
        errno = EIO;
        return -1;
    }
    memcpy(seat->out + seat->out_size, &prefix, sizeof prefix);
    memcpy(seat->out + seat->out_size + sizeof prefix, data, size);
    seat->out_size += sizeof prefix + size;
    wire->ever_sent = 1;
    return (ssize_t)size;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t size) {
    struct gc_wire *wire = ptr;
    size_t whole;

    if (wire->in != NULL) {
        const unsigned char *in = wire->in;
        whole = wire->in_size <= size ? wire->in_size : gc_whole_records(in, wire->in_size, size);
        wire->in = NULL;
        wire->taken = 1;
        if (whole > 0) {
            memcpy(data, in, whole);
            return (ssize_t)whole;
        }
        wire->dropped++; /* no record of DTLS is that long (RFC 6347 4.1) */
    }
    wire->starved = 1;
    errno = EAGAIN;
    return -1;
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    struct gc_wire *wire = ptr;
    (void)milliseconds;
    if (wire->in == NULL)
        wire->starved = 1;
    return wire->in != NULL;
}

static int psk(gnutls_session_t session, const gnutls_datum_t *username, gnutls_datum_t *key) {
    const struct gc_wire *wire = gnutls_transport_get_ptr(session);
    return gc_py_psk(wire->handle, username->data, username->size, key);
}

void gc_psk_set_callback(gnutls_psk_server_credentials_t credentials) {
    gnutls_psk_set_server_credentials_function2(credentials, psk);
}

size_t gc_whole_records(const unsigned char *datagram, size_t size, size_t limit) {
    size_t whole = 0;
    if (limit > size)
        limit = size;
    while (limit - whole >= RECORD_HEADER) {
        size_t record = RECORD_HEADER + datagram[whole + RECORD_HEADER - 2] * 256u +
                        datagram[whole + RECORD_HEADER - 1];
        if (record > limit - whole)
            break;
        whole += record;
    }
    return whole;
}

/* --- calls ------------------------------------------------------------------------------------ */

struct gc_seat *gc_seat_new(void) {
    struct gc_seat *seat = calloc(1, sizeof *seat);
    if (seat != NULL) {
        seat->out = seat->first;
        seat->out_capacity = sizeof seat->first;
    }
    return seat;
}

/* Nothing is sent yet. */
static void clear(struct gc_seat *seat) {
    if (seat->out != seat->first)
        free(seat->out);
    seat->out = seat->first;
    seat->out_capacity = sizeof seat->first;
    seat->out_size = 0;
}

void gc_seat_free(struct gc_seat *seat) {
    if (seat == NULL)
        return;
    gnutls_memset(seat->message, 0, sizeof seat->message);
    clear(seat);
    free(seat);
}

void gc_wire_attach(gnutls_session_t session, struct gc_wire *wire) {
    gnutls_transport_set_ptr(session, wire);
    gnutls_transport_set_push_function(session, push);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_timeout);
}

/* The call has the session to itself, or (0) does nothing. */
static int enter(struct gc_wire *wire, struct gc_seat *seat) {
    if (__atomic_exchange_n(&wire->busy, 1, __ATOMIC_ACQUIRE) != 0)
        return 0;
    clear(seat);
    wire->seat = seat;
    return 1;
}

static void feed(struct gc_wire *wire, const unsigned char *in, size_t in_size) {
    wire->in = in_size > 0 ? in : NULL;
    wire->in_size = in_size;
    wire->taken = 0;
}

static void leave(struct gc_wire *wire) {
    wire->seat = NULL;
    wire->handle = 0;
    wire->in = NULL;
    __atomic_store_n(&wire->busy, 0, __ATOMIC_RELEASE);
}

static int waits(int code) {
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

int gc_wire_handshake(gnutls_session_t session, struct gc_wire *wire, struct gc_seat *seat,
                      uintptr_t handle, const unsigned char *in, size_t in_size) {
    int code = GNUTLS_E_AGAIN;

    if (!enter(wire, seat))
        return GC_BUSY;
    feed(wire, in, in_size);
    wire->handle = handle;
    for (int step = 0; step < STEPS; step++) {
        wire->starved = 0;
        code = gnutls_handshake(session);
        if (code == 0 || gnutls_error_is_fatal(code))
            break;
        if (waits(code) && wire->starved)
            break; /* else a record was dropped, and the next one is to be read */
        code = GNUTLS_E_AGAIN;
    }
    leave(wire);
    return code;
}

/* Whether all that was at hand went into the message that was just read: nothing was left before
 * (`starved`), and the datagram was one record. */
static int is_drained(gnutls_session_t session, const struct gc_wire *wire, int starved,
                      const unsigned char *in, size_t in_size) {
    return starved && wire->taken && in_size >= RECORD_HEADER &&
           RECORD_HEADER + in[RECORD_HEADER - 2] * 256u + in[RECORD_HEADER - 1] == in_size &&
           gnutls_record_check_pending(session) == 0;
}

static ssize_t take(gnutls_packet_t packet, struct gc_seat *seat) {
    gnutls_datum_t datum;
    ssize_t size = GNUTLS_E_LARGE_PACKET;

    gnutls_packet_get(packet, &datum, NULL);
    if (datum.size <= sizeof seat->message) {
        if (datum.size > 0)
            memcpy(seat->message, datum.data, datum.size);
        size = (ssize_t)datum.size;
    }
    gnutls_packet_deinit(packet);
    return size;
}

ssize_t gc_wire_receive(gnutls_session_t session, struct gc_wire *wire, struct gc_seat *seat,
                        const unsigned char *in, size_t in_size) {
    int starved;
    ssize_t code = GNUTLS_E_AGAIN;

    if (!enter(wire, seat))
        return GC_BUSY;
    starved = wire->starved;
    feed(wire, in, in_size);
    for (int step = 0; step < STEPS; step++) {
        gnutls_packet_t packet = NULL;
        wire->starved = 0;
        code = gnutls_record_recv_packet(session, &packet);
        if (packet != NULL) { /* an empty message too: its code is 0 as that of a goodbye */
            code = take(packet, seat);
            wire->starved = is_drained(session, wire, starved, in, in_size);
            break;
        }
        if (code == 0) {
            code = GC_GOODBYE;
            break;
        }
        if (code == GNUTLS_E_REHANDSHAKE || (code < 0 && gnutls_error_is_fatal((int)code)))
            break;
        if (waits((int)code) && wire->starved)
            break; /* else a record was dropped, and the next one is to be read */
        code = GNUTLS_E_AGAIN;
    }
    leave(wire);
    return code;
}

ssize_t gc_wire_send(gnutls_session_t session, struct gc_wire *wire, struct gc_seat *seat,
                     const void *data, size_t size) {
    ssize_t code;
    if (!enter(wire, seat))
        return GC_BUSY;
    code = gnutls_record_send(session, data, size);
    leave(wire);
    return code;
}

int gc_wire_bye(gnutls_session_t session, struct gc_wire *wire, struct gc_seat *seat) {
    int code;
    if (!enter(wire, seat))
        return GC_BUSY;
    code = gnutls_bye(session, GNUTLS_SHUT_WR);
    leave(wire);
    return code;
}

int gc_wire_alert(gnutls_session_t session, struct gc_wire *wire, struct gc_seat *seat, int level,
                  int description) {
    int code;
    if (!enter(wire, seat))
        return GC_BUSY;
    code = gnutls_alert_send(session, (gnutls_alert_level_t)level,
                             (gnutls_alert_description_t)description);
    leave(wire);
    return code;
}

int gc_wire_alert_for(gnutls_session_t session, struct gc_wire *wire, struct gc_seat *seat,
                      int error) {
    int code;
    if (!enter(wire, seat))
        return GC_BUSY;
    code = gnutls_alert_send_appropriate(session, error);
    leave(wire);
    return code;
}
