/* Preloaded, it makes libgnutls say that it is of another version: OLD_LIBGNUTLS_VERSION. */
#include <stdlib.h>

const char *gnutls_check_version(const char *required);

const char *gnutls_check_version(const char *required) {
    (void)required;
    return getenv("OLD_LIBGNUTLS_VERSION");
}
