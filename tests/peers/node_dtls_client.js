// A DTLS client of node-dtls-client: node_dtls_client.js HOST PORT psk IDENTITY HEX.
// Sends each line of stdin once the handshake is done, writes what comes back to stdout, and says
// goodbye when stdin ends. It knows PSK alone.
"use strict";

const { isIPv6 } = require("node:net");
const { createInterface } = require("node:readline");
const { pathToFileURL } = require("node:url");

const [host, port, , identity, key] = process.argv.slice(2);

async function main() {
  // An ES module: found by NODE_PATH only if it is looked up as others are.
  const found = pathToFileURL(require.resolve("node-dtls-client"));
  const { dtls } = await import(found);
  const socket = dtls.createSocket({
    type: isIPv6(host) ? "udp6" : "udp4",
    address: host,
    port: Number(port),
    // A key is text to it; latin1 has a character for each byte.
    psk: { [identity]: Buffer.from(key || "", "hex").toString("latin1") },
    timeout: 10000,
  });
  socket.on("error", (error) => {
    console.log(`error: ${error.message}`);
    process.exit(1);
  });
  socket.on("message", (message) => process.stdout.write(message));
  socket.on("close", () => process.exit(0));
  socket.on("connected", () => {
    const lines = createInterface({ input: process.stdin });
    lines.on("line", (line) => socket.send(Buffer.from(`${line}\n`)));
    lines.on("close", () => socket.close());
  });
}

main();
