// A DTLS client of werift: werift_client.js HOST PORT x509 CERTIFICATE.
// Sends each line of stdin once the handshake is done, writes what comes back to stdout, and ends
// when the server says goodbye: it has no goodbye of its own. It takes one certificate, as WebRTC
// does (RFC 8122 5), and has no cipher suite with PSK.
"use strict";

const { X509Certificate } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { isIPv6 } = require("node:net");
const { createInterface } = require("node:readline");

const { DtlsClient, UdpTransport } = require("werift");

const [host, port, , trust] = process.argv.slice(2);

async function main() {
  const transport = await UdpTransport.init(isIPv6(host) ? "udp6" : "udp4");
  transport.rinfo = { address: host, port: Number(port) };
  const client = new DtlsClient({ transport, extendedMasterSecret: true });
  client.onError.subscribe((error) => end(1, `error: ${error}`));
  client.onData.subscribe((message) => process.stdout.write(message));
  client.onClose.subscribe(() => end(0, "closed"));
  client.onConnect.subscribe(() => {
    const wanted = trust && new X509Certificate(readFileSync(trust)).raw;
    if (!wanted || !wanted.equals(client.remoteCertificate)) {
      end(1, "error: another certificate");
    }
    const lines = createInterface({ input: process.stdin });
    lines.on("line", (line) => client.send(Buffer.from(`${line}\n`)));
  });
  setTimeout(() => end(1, "error: no handshake"), 10000).unref();
  await client.connect();
}

function end(code, text) {
  console.log(text);
  process.exit(code);
}

main();
