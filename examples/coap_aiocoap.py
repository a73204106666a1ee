"""coaps:// for aiocoap: a server and a client over libgnutls, with keys or certificates.

pip install aiocoap

python coap_aiocoap.py serve 127.0.0.1 5684 --psk sensor-1:736563726574
python coap_aiocoap.py get coaps://127.0.0.1/time --psk sensor-1:736563726574
coap-client-gnutls -m get -u sensor-1 -k secret coaps://127.0.0.1/whoami

python coap_aiocoap.py serve 127.0.0.1 5684 --cert cert.pem --key key.pem
python coap_aiocoap.py get coaps://localhost/time --trust cert.pem

MessageInterfaceDTLS is a transport as those of aiocoap.transports are: server_context() and
client_context() do with it what Context.create_server_context() does with one of its own.
"""

import argparse
import asyncio
import hashlib
from datetime import datetime

from aiocoap import CONTENT, GET, Context, Message, error, interfaces, resource
from aiocoap.credentials import DTLS, CredentialsMap, CredentialsMissingError
from aiocoap.numbers import COAPS_PORT
from aiocoap.util import hostportjoin, hostportsplit

from gnutls_cookie import CertificateCredentials, GnuTLSError, PSKCredentials, aio

#: What NORMAL leaves out, and RFC 7252 9.1.3 wants; and no DTLS before 1.2 (RFC 8996).
PRIORITY = (
    "NORMAL:-VERS-ALL:+VERS-DTLS1.2:+ECDHE-PSK:+DHE-PSK:+PSK:+AES-128-CCM-8:+AES-128-CBC:+SHA256"
)


class Remote(interfaces.EndpointAddress):
    """One connection. Another one is another remote, as RFC 7252 9.1.2 wants it."""

    scheme = "coaps"
    is_multicast = is_multicast_locally = False
    maximum_block_size_exp = 6  # 1024 bytes, in one datagram
    # Each connection has its own; abstract properties of the base class.
    hostinfo = hostinfo_local = uri_base = uri_base_local = None
    authenticated_claims = ()

    def __init__(self, connection, hostinfo, hostinfo_local, claims):
        self.connection = connection
        self.hostinfo, self.hostinfo_local = hostinfo, hostinfo_local
        self.uri_base, self.uri_base_local = f"coaps://{hostinfo}", f"coaps://{hostinfo_local}"
        self.authenticated_claims = claims

    @property
    def blockwise_key(self):
        return (self.connection.address, tuple(self.authenticated_claims))

    def __repr__(self):
        return f"<{type(self).__name__} {self.uri_base} {self.authenticated_claims}>"


class MessageInterfaceDTLS(interfaces.MessageInterface):
    """coaps:// to servers, by the context's client_credentials, and of a server of its own."""

    def __init__(self, mman, log, **options):
        self._mman, self._log = mman, log
        self._options = {"priority": PRIORITY, **options}  # of connect()
        self._server = None
        self._remotes = set()
        self._connecting = {}  # (host, port, credentials): the task that connects, or has
        self._readers = set()

    @classmethod
    async def create_client(cls, mman, log, **options):
        """For requests alone; the options are those of gnutls_cookie.aio.connect."""
        return cls(mman, log, **options)

    @classmethod
    async def create_server(cls, bind, mman, log, server_credentials, **options):
        """Bind, and serve with the keys and certificates of an aiocoap CredentialsMap.

        Args:
            bind: host and port; None for the port is 5684.
            options: what gnutls_cookie.aio.start_server takes besides; with verify_peer=True a
                client has to have a certificate of who is trusted.
        """
        self = cls(mman, log)
        host, port = bind
        self._server = await aio.start_server(
            host=host,
            port=COAPS_PORT if port is None else port,
            protocol_factory=lambda: _Served(self),
            credentials=_of_server(server_credentials),
            **{"priority": PRIORITY, **options},
        )
        return self

    @property
    def address(self):
        """Where the server listens; None without one."""
        return self._server and self._server.address

    # what aiocoap calls

    def send(self, message):
        try:
            message.remote.connection.send_nowait(message.encode())
        except (GnuTLSError, OSError) as problem:
            # Later: the message manager has yet to note that it has sent this.
            asyncio.get_running_loop().call_soon(self.gone, message.remote, problem)

    async def recognize_remote(self, remote):
        return remote in self._remotes

    async def determine_remote(self, message):
        if message.requested_scheme != "coaps":
            return None
        if message.unresolved_remote is not None:
            host, port = hostportsplit(message.unresolved_remote)
        else:
            host, port = message.opt.uri_host, message.opt.uri_port
        if not host:
            raise ValueError("no host to send the message to")
        credentials = self._mman.client_credentials.credentials_from_request(message)
        key = (host, port or COAPS_PORT, id(credentials))
        task = self._connecting.get(key)
        if task is None or (task.done() and not _is_open(task)):
            task = asyncio.ensure_future(self._connect(*key[:2], _of_client(credentials)))
            self._connecting[key] = task
        try:
            return await asyncio.shield(task)
        except (GnuTLSError, OSError) as problem:
            raise error.NetworkError(str(problem)) from problem

    async def shutdown(self):
        self._mman = None
        for task in self._connecting.values():
            task.cancel()
        for remote in list(self._remotes):
            remote.connection.close()
        await asyncio.gather(*self._readers, *self._connecting.values(), return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    # connections

    async def _connect(self, host, port, credentials):
        connection = await aio.connect(host, port, credentials=credentials, **self._options)
        remote = self.connected(connection, host, port)
        reader = asyncio.ensure_future(self._read(connection, remote))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return remote

    async def _read(self, connection, remote):
        problem = None
        try:
            async for message in connection:
                self.received(message, remote)
        except (GnuTLSError, OSError) as raised:
            problem = raised
        finally:
            connection.close()
            self.gone(remote, problem)

    def connected(self, connection, host, port):
        here = connection.get_extra_info("sockname") or ("", 0)
        remote = Remote(
            connection,
            hostportjoin(host, None if port == COAPS_PORT else port),
            hostportjoin(here[0], None if here[1] == COAPS_PORT else here[1]),
            _claims(connection.session),
        )
        self._remotes.add(remote)
        return remote

    def received(self, data, remote):
        if self._mman is None:
            return
        try:
            message = Message.decode(data, remote=remote)
        except error.UnparsableMessage:
            self._log.warning("ignored what is not CoAP from %r", remote)
            return
        self._mman.dispatch_message(message)

    def gone(self, remote, problem):
        if remote in self._remotes:
            self._remotes.discard(remote)
            if self._mman is not None:
                text = str(problem or "the peer has closed the connection")
                self._mman.dispatch_error(error.NetworkError(text), remote)


class _Served(aio.Protocol):
    """A client of the server."""

    def __init__(self, interface):
        self._interface = interface

    def connected(self, connection):
        host, port = connection.address[:2]
        self._remote = self._interface.connected(connection, host, port)

    def message_received(self, message):
        self._interface.received(message, self._remote)

    def closed(self, problem):
        self._interface.gone(self._remote, problem)


def _is_open(task):
    return not task.cancelled() and not task.exception() and task.result().connection.is_open


def _claims(session):
    """Who a peer has shown to be."""
    if session.psk_identity_bytes is not None:
        return [f"psk:{session.psk_identity_bytes.decode(errors='backslashreplace')}"]
    if session.peer_certificate is not None:
        return [f"sha256:{hashlib.sha256(session.peer_certificate).hexdigest()}"]
    return []


def _of_server(credentials):
    """The certificates of a CredentialsMap, and its keys by identity."""
    ours = [one for one in credentials.values() if isinstance(one, CertificateCredentials)]

    def lookup(identity):
        try:
            return credentials.find_dtls_psk(identity.encode())[0]
        except KeyError:
            return None

    if any(hasattr(one, "as_dtls_psk") for one in credentials.values()):
        return [*ours, PSKCredentials(lookup=lookup)]
    return ours


def _of_client(credentials):
    """An entry of a CredentialsMap: certificates, or what aiocoap has for keys."""
    if isinstance(credentials, CertificateCredentials):
        return credentials
    try:
        return PSKCredentials(*credentials.as_dtls_psk())
    except AttributeError:
        raise CredentialsMissingError("neither a key nor certificates for DTLS") from None


# --- contexts: what would be two branches in aiocoap's protocol.py ------------------------------


async def server_context(site, bind, server_credentials, **options):
    """A context that serves `site`, and its transport."""
    context = Context(serversite=site, server_credentials=server_credentials)
    found = []

    async def create(mman):
        found.append(
            await MessageInterfaceDTLS.create_server(
                bind, mman, context.log, server_credentials, **options
            )
        )
        return found[0]

    await context._append_tokenmanaged_messagemanaged_transport(create)
    return context, found[0]


async def client_context(**options):
    """A context for requests; its client_credentials are still to be filled."""
    context = Context()
    await context._append_tokenmanaged_messagemanaged_transport(
        lambda mman: MessageInterfaceDTLS.create_client(mman, context.log, **options)
    )
    return context


# --- a server and a client to try it with ---------------------------------------------------------


class Time(resource.ObservableResource):
    """The time, once a second to those who observe it."""

    def update_observation_count(self, count):
        if count and not hasattr(self, "_ticking"):
            self._ticking = asyncio.ensure_future(self._tick())
        elif not count:
            self._ticking.cancel()
            del self._ticking

    async def _tick(self):
        while True:
            await asyncio.sleep(1)
            self.updated_state()

    async def render_get(self, request):
        return Message(code=CONTENT, payload=datetime.now().isoformat().encode())


class Who(resource.Resource):
    """Who the client has shown to be."""

    async def render_get(self, request):
        claims = ", ".join(request.remote.authenticated_claims)
        return Message(code=CONTENT, payload=(claims or "nobody").encode())


class Echo(resource.Resource):
    """What was put last, of any size: aiocoap cuts it in blocks."""

    content = b""

    async def render_get(self, request):
        return Message(code=CONTENT, payload=self.content)

    async def render_put(self, request):
        self.content = request.payload
        return Message()


def site():
    found = resource.Site()
    found.add_resource(
        [".well-known", "core"], resource.WKCResource(found.get_resources_as_linkheader)
    )
    found.add_resource(["time"], Time())
    found.add_resource(["whoami"], Who())
    found.add_resource(["echo"], Echo())
    return found


async def serve(options):
    credentials = credentials_of(options)
    context, transport = await server_context(
        site(), (options.host, options.port), credentials, verify_peer=options.trust is not None
    )
    print(f"coaps://{hostportjoin(*transport.address[:2])}", flush=True)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await context.shutdown()


async def get(options):
    context = await client_context()
    context.client_credentials.update(credentials_of(options))
    try:
        request = Message(code=GET, uri=options.uri, observe=0 if options.observe else None)
        requester = context.request(request)
        print((await requester.response).payload.decode())
        if options.observe:
            async for message in requester.observation:
                print(message.payload.decode(), flush=True)
    finally:
        await context.shutdown()


def credentials_of(options):
    """A CredentialsMap: each key and certificate for all URIs."""
    found = CredentialsMap()
    for number, (identity, key) in enumerate(options.psk):
        found["coaps://" + "*" * (number + 1)] = DTLS(key, identity)
    if options.cert or options.trust:
        found["coaps://*"] = CertificateCredentials.from_files(
            options.cert, options.key, trust=options.trust
        )
    return found


def psk(text):
    """An argument of the command line: an identity and its key."""
    identity, _, key = text.partition(":")
    if not (identity and key):
        raise ValueError
    return identity.encode(), bytes.fromhex(key)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one, other = commands.add_parser("serve"), commands.add_parser("get")
    one.add_argument("host")
    one.add_argument("port", type=int)
    one.set_defaults(run=serve)
    other.add_argument("uri")
    other.add_argument("--observe", action="store_true", help="print each change")
    other.set_defaults(run=get)
    for each in one, other:
        each.add_argument("--psk", metavar="IDENTITY:HEX", type=psk, action="append", default=[])
        each.add_argument("--cert", metavar="PEM", help="of this side")
        each.add_argument("--key", metavar="PEM")
        each.add_argument("--trust", metavar="PEM", help="who signs the other side's certificate")
    options = parser.parse_args()
    try:
        asyncio.run(options.run(options))
    except (GnuTLSError, OSError, ValueError, error.Error) as problem:
        parser.exit(1, f"{parser.prog}: {problem.__cause__ or problem}\n")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
