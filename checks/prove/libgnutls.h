/* What the proof takes on trust: contracts of the functions that gate.c calls and does not define.
 * The declarations repeat those of <gnutls/gnutls.h>, <gnutls/dtls.h> and transport.h, which come
 * first, so that a change there is an error here. What a contract requires, gate.c is shown to
 * give. */
#include <gnutls/gnutls.h>
#include <gnutls/dtls.h>
#include "transport.h"

/* Two facts that only libgnutls can make: gnutls_dtls_cookie_send answered `sent` and had pushed
 * `captured` bytes into `reply`; gnutls_dtls_cookie_verify answered 0 to these arguments. */
/*@ axiomatic Libgnutls {
  @   predicate pushed(unsigned char *reply, integer sent, integer captured);
  @   predicate judged_genuine(unsigned char *key, integer key_size, char *client_data,
  @                            integer client_data_size, char *message, integer size);
  @ }
  @*/

/*@ requires \valid_read((unsigned char *)s1 + (0 .. n - 1));
  @ requires \valid_read((unsigned char *)s2 + (0 .. n - 1));
  @ assigns \result \from ((unsigned char *)s1)[0 .. n - 1], ((unsigned char *)s2)[0 .. n - 1];
  @ ensures \result == 0 <==>
  @     (\forall integer i; 0 <= i < n ==> ((unsigned char *)s1)[i] == ((unsigned char *)s2)[i]);
  @*/
int gnutls_memcmp(const void *s1, const void *s2, size_t n);

/*@ requires \valid((struct gcookie_capture *)ptr);
  @ requires \valid_read((char *)data + (0 .. size - 1));
  @ requires \valid(((struct gcookie_capture *)ptr)->data +
  @                 (0 .. ((struct gcookie_capture *)ptr)->capacity - 1));
  @ assigns ((struct gcookie_capture *)ptr)->size,
  @         ((struct gcookie_capture *)ptr)->data[0 .. ((struct gcookie_capture *)ptr)->capacity -
  1];
  @*/
ssize_t gcookie_capture_push(gnutls_transport_ptr_t ptr, const void *data, size_t size);

/*@ requires \valid_read(key);
  @ requires \valid_read(key->data + (0 .. key->size - 1));
  @ requires \valid_read((char *)client_data + (0 .. client_data_size - 1));
  @ requires \valid_read(prestate);
  @ // The push, and so all that the call may write: the capture, at most its capacity.
  @ requires push_func == &gcookie_capture_push;
  @ requires \valid((struct gcookie_capture *)ptr);
  @ requires \valid(((struct gcookie_capture *)ptr)->data +
  @                 (0 .. ((struct gcookie_capture *)ptr)->capacity - 1));
  @ assigns ((struct gcookie_capture *)ptr)->size,
  @         ((struct gcookie_capture *)ptr)->data[0 .. ((struct gcookie_capture *)ptr)->capacity -
  1];
  @ ensures pushed(((struct gcookie_capture *)ptr)->data, \result, ((struct gcookie_capture
  *)ptr)->size);
  @*/
int gnutls_dtls_cookie_send(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                            gnutls_dtls_prestate_st *prestate, gnutls_transport_ptr_t ptr,
                            gnutls_push_func push_func);

/*@ requires \valid_read(key);
  @ requires \valid_read(key->data + (0 .. key->size - 1));
  @ requires \valid_read((char *)client_data + (0 .. client_data_size - 1));
  @ requires \valid_read((char *)_msg + (0 .. msg_size - 1));
  @ requires \valid(prestate);
  @ assigns *prestate;
  @ ensures \result == 0 ==>
  @     judged_genuine(key->data, key->size, (char *)client_data, client_data_size,
  @                    (char *)_msg, msg_size);
  @*/
int gnutls_dtls_cookie_verify(gnutls_datum_t *key, void *client_data, size_t client_data_size,
                              void *_msg, size_t msg_size, gnutls_dtls_prestate_st *prestate);
