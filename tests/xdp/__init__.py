"""One datagram of an unknown client: addresses, keys, the gate, the listener."""
