"""python -m gnutls_cookie COMMAND (also: gnutls-cookie COMMAND)."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
