"""RADIUS over DTLS (RFC 7360): a server that takes clients by the names in their certificates.

python radius_dtls.py serve 127.0.0.1 --cert cert.pem --key key.pem --trust ca.pem \
    --client nas.example.org --user alice:wonderland
python radius_dtls.py ask 127.0.0.1 alice:wonderland --cert cert.pem --key key.pem --trust ca.pem \
    --server-name radius.example.org

It answers Access-Request with a User-Password, and Status-Server; radsecproxy is such a client.
"""

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import os
import struct

from gnutls_cookie import CertificateCredentials, GnuTLSError, aio

PORT = 2083
SECRET = b"radius/dtls"  # RFC 7360 2.1: who is who is DTLS' business

ACCESS_REQUEST, ACCESS_ACCEPT, ACCESS_REJECT, STATUS_SERVER = 1, 2, 3, 12
USER_NAME, USER_PASSWORD, MESSAGE_AUTHENTICATOR = 1, 2, 80

_HEAD = struct.Struct("!BBH16s")  # code, identifier, length, authenticator (RFC 2865 3)


# --- packets --------------------------------------------------------------------------------------


def decode(packet):
    """Code, identifier, authenticator and attributes of a packet.

    Raises:
        ValueError: it is not a packet, or its Message-Authenticator is wrong.
    """
    if len(packet) < _HEAD.size:
        raise ValueError("shorter than a header")
    code, identifier, length, authenticator = _HEAD.unpack_from(packet)
    if length < _HEAD.size or length > len(packet):
        raise ValueError("its length is wrong")
    attributes, at = {}, _HEAD.size
    while at < length:
        size = packet[at + 1] if at + 1 < length else 0
        if size < 2 or at + size > length:
            raise ValueError("an attribute's length is wrong")
        kind, value = packet[at], packet[at + 2 : at + size]
        if kind == MESSAGE_AUTHENTICATOR and code in (ACCESS_REQUEST, STATUS_SERVER):
            unsigned = packet[: at + 2] + bytes(16) + packet[at + 18 : length]
            if not hmac.compare_digest(value, hmac.digest(SECRET, unsigned, "md5")):
                raise ValueError("its Message-Authenticator is wrong")
        attributes[kind] = value
        at += size
    return code, identifier, authenticator, attributes


def encode(code, identifier, authenticator, attributes=()):
    """A packet; Message-Authenticator comes first and is made here (RFC 3579 3.2)."""
    unsigned = bytes([MESSAGE_AUTHENTICATOR, 18]) + bytes(16)
    rest = b"".join(bytes([kind, len(value) + 2]) + value for kind, value in attributes)
    head = _HEAD.pack(code, identifier, _HEAD.size + len(unsigned) + len(rest), authenticator)
    mac = hmac.digest(SECRET, head + unsigned + rest, "md5")
    return head + unsigned[:2] + mac + rest


def answer_to(packet, code):
    """The answer to a request, with the authenticator of RFC 2865 3."""
    _, identifier, authenticator, _ = decode(packet)
    answer = encode(code, identifier, authenticator)
    response = hashlib.md5(answer + SECRET).digest()
    return answer[:4] + response + answer[20:]


def answers(answer, request):
    """Whether a packet is the answer to a request."""
    signed = answer[:4] + request[4:20] + answer[20:]
    response = hashlib.md5(signed + SECRET).digest()
    return answer[1] == request[1] and hmac.compare_digest(response, answer[4:20])


def hidden(password, authenticator):
    """A password as it is sent (RFC 2865 5.2)."""
    padded, found, before = password + bytes(-len(password) % 16), b"", authenticator
    for at in range(0, len(padded), 16):
        mask = hashlib.md5(SECRET + before).digest()
        before = bytes(a ^ b for a, b in zip(padded[at : at + 16], mask, strict=True))
        found += before
    return found


def shown(value, authenticator):
    """The password in a User-Password."""
    found, before = b"", authenticator
    for at in range(0, len(value) - len(value) % 16, 16):
        mask = hashlib.md5(SECRET + before).digest()
        before = value[at : at + 16]
        found += bytes(a ^ b for a, b in zip(before, mask, strict=True))
    return found.rstrip(b"\0")


# --- the server -----------------------------------------------------------------------------------


class Client(aio.Protocol):
    """One RADIUS client: a NAS, or a proxy."""

    def __init__(self, clients, users):
        self._clients, self._users = clients, users

    def connected(self, connection):
        self._connection = connection
        names = connection.session.peer_names.dns  # libgnutls has checked who signed them
        self._name = next((one for one in names if one in self._clients), None)
        if self._name is None:
            connection.close()
        print(f"{connection.address[0]} is {self._name or 'not a client'}", flush=True)

    def message_received(self, packet):
        with contextlib.suppress(ValueError):  # RFC 2865 3: silently discarded
            code, _, authenticator, attributes = decode(packet)
            if code == STATUS_SERVER:
                self._connection.send_nowait(answer_to(packet, ACCESS_ACCEPT))
            elif code == ACCESS_REQUEST:
                user = attributes.get(USER_NAME, b"")
                password = shown(attributes.get(USER_PASSWORD, b""), authenticator)
                expected = self._users.get(user)
                good = expected is not None and hmac.compare_digest(expected, password)
                print(f"{self._name}: {user!r} {'accepted' if good else 'rejected'}", flush=True)
                code = ACCESS_ACCEPT if good else ACCESS_REJECT
                self._connection.send_nowait(answer_to(packet, code))


def start_server(host, port, credentials, clients, users):
    """Start a server: `async with start_server(...) as server`.

    Args:
        credentials: its certificate, and who signs those of clients.
        clients: names, one of which has to be in a client's certificate.
        users: passwords by name, both bytes.
    """
    return aio.start_server(
        host=host,
        port=port,
        protocol_factory=lambda: Client(clients, users),
        credentials=credentials,
        verify_peer=True,  # a client has to have a certificate, of who is trusted
    )


async def ask(host, port, credentials, server_name, user, password):
    """Whether a server takes a user's password."""
    authenticator = os.urandom(16)
    attributes = [(USER_NAME, user), (USER_PASSWORD, hidden(password, authenticator))]
    request = encode(ACCESS_REQUEST, 1, authenticator, attributes)
    async with aio.connect(
        host, port, credentials=credentials, server_name=server_name
    ) as connection:
        while True:  # RFC 5080 2.2.1: sent again until it is answered
            await connection.send(request)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    answer = await connection.receive()
                    if answer is None:
                        raise ConnectionResetError("the server has closed the connection")
                    if answers(answer, request):
                        return decode(answer)[0] == ACCESS_ACCEPT


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    for name in "serve", "ask":
        one = commands.add_parser(name)
        one.add_argument("host")
        one.add_argument("--port", type=int, default=PORT)
        for option in "--cert", "--key", "--trust":
            one.add_argument(option, metavar="PEM", required=True)
        if name == "serve":
            one.add_argument("--client", metavar="NAME", action="append", default=[])
            one.add_argument("--user", metavar="NAME:PASSWORD", action="append", default=[])
        else:
            one.add_argument("user", metavar="NAME:PASSWORD")
            one.add_argument("--server-name", metavar="NAME", help="in its certificate (HOST)")
    options = parser.parse_args()
    files = (options.cert, options.key)
    try:
        credentials = CertificateCredentials.from_files(*files, trust=options.trust)
        if options.command == "serve":
            users = dict(one.encode().split(b":", 1) for one in options.user)
            asyncio.run(serve(options, credentials, users))
        else:
            user, password = options.user.encode().split(b":", 1)
            where = (options.host, options.port, credentials, options.server_name)
            print("accepted" if asyncio.run(ask(*where, user, password)) else "rejected")
    except (GnuTLSError, OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        pass


async def serve(options, credentials, users):
    async with start_server(
        options.host, options.port, credentials, options.client, users
    ) as server:
        print(f"RADIUS over DTLS on {server.address[0]} port {server.address[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    main()
