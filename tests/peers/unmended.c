/* Preloaded, it makes libgnutls compare name constraints as it did before 3.8.13: by case. The one
 * constraint is what was excluded last. */
#include <string.h>

#include <gnutls/x509.h>

static unsigned char name[64];
static unsigned int size;

int gnutls_x509_name_constraints_add_excluded(gnutls_x509_name_constraints_t nc,
                                              gnutls_x509_subject_alt_name_t type,
                                              const gnutls_datum_t *excluded) {
    (void)nc;
    (void)type;
    size = excluded->size < sizeof(name) ? excluded->size : sizeof(name);
    memcpy(name, excluded->data, size);
    return 0;
}

unsigned gnutls_x509_name_constraints_check(gnutls_x509_name_constraints_t nc,
                                            gnutls_x509_subject_alt_name_t type,
                                            const gnutls_datum_t *asked) {
    (void)nc;
    (void)type;
    return asked->size != size || memcmp(asked->data, name, size) != 0;
}
