"""The gate before sessions of one's own: a loop, a table and timers that are the program's.

python own_sessions.py 127.0.0.1 5684 sensor-1 736563726574
openssl s_client -dtls1_2 -psk_identity sensor-1 -psk 736563726574 -connect 127.0.0.1:5684

`Server` does all of this, and more: it lets a client that has started again from the same port keep
its old session until the new one is proved (RFC 6347 4.2.8), and bounds what one network holds.
This is for who needs another table, or has one.
"""

import argparse
import contextlib
import socket
import sys
import time

from gnutls_cookie import (
    CookieGate,
    CookieListener,
    GnuTLSError,
    KeyRing,
    PSKCredentials,
    Session,
    TimedOutError,
)

SESSIONS_MAX = 1000
IDLE_SECONDS = 300.0


class Sessions:
    """The sessions of one socket, by address.

    Args:
        answer: called with each message; what it returns goes back.
    """

    def __init__(self, sock, credentials, answer):
        self._sock, self._credentials, self._answer = sock, credentials, answer
        # Strangers are challenged in C: what comes out of poll() is of clients that have shown
        # their cookie, and of addresses that were admitted.
        self.listener = CookieListener(sock, CookieGate(KeyRing.random()))
        self._sessions = {}  # by address: the session, and when it was last heard
        sock.setblocking(False)

    def turn(self):
        """Wait for something to do, and do it."""
        now = time.monotonic()
        waits = [session.timeout(now) for session, _ in self._sessions.values()]
        timeout = min((one for one in waits if one is not None), default=1.0)
        arrivals = self.listener.poll(min(timeout, 1.0))
        now = time.monotonic()
        for arrival in arrivals:
            if arrival.prestate is not None and not self._open(arrival, now):
                continue
            found = self._sessions.get(arrival.address)
            if found is not None:
                self._sessions[arrival.address] = (found[0], now)
                self._drive(arrival.address, now, arrival.datagram)
        for address, (session, heard) in list(self._sessions.items()):
            due = session.timeout(now)
            if now - heard > IDLE_SECONDS:
                self._end(address)
            elif due is not None and due <= 0:
                self._drive(address, now)

    def close(self):
        for address in list(self._sessions):
            self._end(address)
        self.listener.close()

    def _open(self, arrival, now):
        """Open a session for a hello with a good cookie, whose first datagram is that hello."""
        if arrival.address in self._sessions:
            # Repeated, as the answer was lost: for its session. A client that has started again is
            # the same to us, and waits until the old session is idle.
            return True
        if len(self._sessions) >= SESSIONS_MAX:
            return False
        session = Session("server", self._credentials, prestate=arrival.prestate)
        self._sessions[arrival.address] = (session, now)
        self.listener.admit(arrival.address)
        return True

    def _drive(self, address, now, datagram=None):
        """Give a session what came, or the time, and send what it has to say."""
        session, _ = self._sessions[address]
        try:
            if datagram is None:
                session.handle_timeout(now)
            else:
                session.receive_datagram(datagram)
            if session.established or session.handshake(now):
                while (message := session.receive()) is not None:
                    session.send(self._answer(message))
        except TimedOutError:  # the client has gone, in the middle of the handshake
            self._end(address)
        except GnuTLSError as error:
            print(f"{address}: {error}", file=sys.stderr)
            self._end(address)
        else:
            self._flush(session, address)
            if session.peer_closed:
                self._end(address)

    def _end(self, address):
        session, _ = self._sessions.pop(address)
        session.close()
        self._flush(session, address)  # an alert, or a goodbye
        self.listener.forget(address)

    def _flush(self, session, address):
        for datagram in session.datagrams_to_send():
            with contextlib.suppress(
                OSError
            ):  # as lost on the network: what must arrive is repeated
                self._sock.sendto(datagram, address)


def hexadecimal(text):
    """A key, for argparse."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if not key:
        raise argparse.ArgumentTypeError(f"a key in hexadecimal is needed, not {text!r}")
    return key


def port_number(text):
    """A port, for argparse."""
    if text.isascii() and text.isdecimal() and int(text[:6]) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port in 0..65535 is needed, not {text!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=port_number)
    parser.add_argument("identity")
    parser.add_argument("key", type=hexadecimal)
    options = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            credentials = PSKCredentials(options.identity, options.key)
            sock.bind((options.host, options.port))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        with (
            contextlib.suppress(KeyboardInterrupt),
            contextlib.closing(Sessions(sock, credentials, bytes.upper)) as sessions,
        ):
            print(f"serving on {options.host} port {sock.getsockname()[1]}", flush=True)
            while True:
                sessions.turn()


if __name__ == "__main__":
    main()
