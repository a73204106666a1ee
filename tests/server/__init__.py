"""Sessions by address, without sockets."""
