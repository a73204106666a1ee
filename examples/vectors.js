// The vectors of gnutls-cookie run on the two functions of cookie.js:
//     gnutls-cookie vectors > vectors.json
//     node examples/vectors.js vectors.json
// Prints each vector that is answered otherwise; exit code 0 where there is none.
'use strict';

const fs = require('node:fs');
const { answer } = require('./cookie.js');

const text = fs.readFileSync(process.argv[2], 'utf8');
let asked = 0;
let wrong = 0;

// One test a line. Results of push may have 64 bits, which JSON.parse rounds: the lines are handed
// on as text.
for (const line of text.split('\n')) {
  const found = /^ *(\{"tcId": .*\}),?$/.exec(line);
  if (found === null) continue;
  const test = JSON.parse(found[1]);
  if (!['verify', 'send'].includes(test.case.operation)) continue;
  asked += 1;
  const question = /"case": (\{.*?\}), "result"/.exec(found[1])[1];
  const got = answer(question);
  const same = ['result', 'pushed', 'prestate'].every(
    (name) => JSON.stringify(got[name]) === JSON.stringify(test.answer[name]),
  );
  if (!same) {
    wrong += 1;
    console.log(`vector ${test.tcId}, ${test.name} (${test.flags}): ${JSON.stringify(got)}`);
  }
}
console.log(`${asked} vectors, ${wrong} answered otherwise`);
process.exitCode = asked === 0 || wrong > 0 ? 1 : 0;
