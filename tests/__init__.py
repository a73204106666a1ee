"""The tests of gnutls-cookie, in packages that mirror the house."""
