// nodemailer's pool.
//
// Called as bench.js HOST PORT CONNECTIONS MESSAGES SIZE; prints one line of JSON. What is fair:
// the content is made once and handed over raw; the pool never retires a connection
// (maxMessages: Infinity); every connection is open and has carried one message before the clock
// starts; QUIT is not timed. Twice as many messages as connections are under way in the pool, so
// that a connection that falls free always finds the next one waiting.
'use strict';

const nodemailer = require('nodemailer');

const SENDER = 'bench@example.com';
const RECIPIENT = 'someone@example.net';

function makeContent(size) {
  const header = `From: <${SENDER}>\r\nTo: <${RECIPIENT}>\r\nSubject: bench\r\n\r\n`;
  const line = 'x'.repeat(70) + '\r\n';
  const text = header + line.repeat(Math.ceil(size / line.length));
  return Buffer.from(text.slice(0, size - 2).trimEnd() + '\r\n');
}

// Runs `width` loops that take from one counter until it is used up.
async function sendAll(transport, mail, messages, width) {
  const counts = { left: messages, ok: 0, failed: 0 };
  const loop = async () => {
    while (counts.left > 0) {
      counts.left -= 1;
      try {
        await transport.sendMail(mail);
        counts.ok += 1;
      } catch {
        counts.failed += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: width }, loop));
  return counts;
}

async function main() {
  const [host, ...numbers] = process.argv.slice(2);
  const [port, connections, messages, size] = numbers.map(Number);
  if (!(size > 0)) throw new Error('usage: HOST PORT CONNECTIONS MESSAGES SIZE');
  const transport = nodemailer.createTransport({
    host,
    port,
    pool: true,
    maxConnections: connections,
    maxMessages: Infinity,
    secure: false,
    ignoreTLS: true,
    logger: false,
  });
  const mail = {
    envelope: { from: SENDER, to: [RECIPIENT] },
    raw: makeContent(size),
  };
  const warm = await sendAll(transport, mail, connections, connections);
  if (warm.failed > 0) throw new Error('warm-up failed: is the receiver there?');

  const start = process.hrtime.bigint();
  const { ok, failed } = await sendAll(transport, mail, messages, 2 * connections);
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  transport.close();
  console.log(JSON.stringify({ name: 'nodemailer pool', messages, seconds, ok, failed }));
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
