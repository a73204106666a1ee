// The two cookie functions in JavaScript, as a target of the differential bench:
//     gnutls-cookie diff --exec "node examples/cookie.js"
// With --wrong one fault is planted: a datagram may end with its cookie.
'use strict';

const crypto = require('node:crypto');
const readline = require('node:readline');

const UNEXPECTED_PACKET_LENGTH = -9;
const INVALID_REQUEST = -50;
const PUSH_ERROR = -53;
const BAD_COOKIE = -214;

const wrong = process.argv.includes('--wrong');

function cookie(key, clientData) {
  return crypto.createHmac('sha1', key).update(clientData).digest().subarray(0, 16);
}

// The result, and the prestate afterwards.
function verify(key, clientData, message, prestate) {
  const fail = (result) => ({ result, prestate });
  if (key.length === 0) return fail(INVALID_REQUEST);
  if (message.length < 60) return fail(UNEXPECTED_PACKET_LENGTH);
  const sessionId = message[59];
  const start = 61 + sessionId;
  if (sessionId > 32 || message.length < start) return fail(UNEXPECTED_PACKET_LENGTH);
  const length = message[start - 1];
  const after = wrong ? 0 : 1;
  if (message.length < start + length + after) return fail(UNEXPECTED_PACKET_LENGTH);
  if (length !== 16) return fail(BAD_COOKIE);
  const presented = message.subarray(start, start + 16);
  if (!crypto.timingSafeEqual(presented, cookie(key, clientData))) return fail(BAD_COOKIE);
  return { result: 0, prestate: [message[10], message[18], 0] };
}

// The result, what was pushed, and the prestate afterwards. pushResult is a BigInt: it may be
// larger than what a number holds.
function send(key, clientData, prestate, pushResult) {
  if (key.length === 0) return { result: INVALID_REQUEST, prestate };
  const datagram = Buffer.concat([
    Buffer.from([22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, prestate[0] & 0xff, 0, 31]),
    Buffer.from([3, 0, 0, 19, 0, prestate[2] & 0xff, 0, 0, 0, 0, 0, 19, 0xfe, 0xff, 16]),
    cookie(key, clientData),
  ]);
  const narrowed = pushResult === null ? datagram.length : Number(BigInt.asIntN(32, pushResult));
  const result = narrowed < 0 ? PUSH_ERROR : narrowed;
  return { result, pushed: datagram.toString('hex'), prestate };
}

function answer(line) {
  const question = JSON.parse(line);
  if (question.operation === 'hello') return { operations: ['verify', 'send'] };
  const key = Buffer.from(question.key, 'hex');
  const clientData = Buffer.from(question.client_data ?? '', 'hex');
  if (question.operation === 'verify') {
    return verify(key, clientData, Buffer.from(question.message, 'hex'), question.prestate);
  }
  // JSON.parse rounds what has more than 53 bits: taken from the text.
  const text = /"pushed": *(-?\d+)/.exec(line);
  return send(key, clientData, question.prestate, text === null ? null : BigInt(text[1]));
}

module.exports = { answer };

if (require.main === module) {
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    process.stdout.write(JSON.stringify(answer(line)) + '\n');
  });
}
