/* What Frama-C reads: the trusted contracts, then gate.c as it is. */
#include "libgnutls.h"
#include "gate.c"
