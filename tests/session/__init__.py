"""DTLS sessions without sockets."""
