// The client by the npm package ws: URL CA.
const { createHash } = require("crypto");
const { once } = require("events");
const fs = require("fs");
const WebSocket = require("ws");

const [url, ca] = process.argv.slice(2);
const options = { ca: fs.readFileSync(ca), perMessageDeflate: { threshold: 0 } };
const open = (path) => new WebSocket(`${url}/${path}`, ["other", "echo.v1"], options);
const next = async (socket) => (await once(socket, "message"))[0];

async function talk(seen) {
  const socket = open("chat?by=client");
  await once(socket, "open");
  seen.subprotocol = socket.protocol;
  seen.extensions = socket.extensions;
  const big = Buffer.alloc(1 << 20, Uint8Array.from({ length: 256 }, (_, at) => at));
  socket.send(big);
  seen.big = createHash("sha256").update(await next(socket)).digest("hex");
  const small = createHash("sha256");
  for (let number = 0; number < 1000; number++) {
    socket.send(`message ${number}`);
    small.update(await next(socket));
  }
  seen.small = small.digest("hex");
  socket.ping("mine");
  seen.pong = (await once(socket, "pong"))[0].toString();
  socket.send("ping me");
  seen.pinged = (await next(socket)).toString();
  socket.close(4002, "enough");
  const [code, reason] = await once(socket, "close");
  seen.closed = [code, reason.toString()];
}

async function main() {
  const seen = {};
  await talk(seen);
  const socket = open("chat?by=server");
  await once(socket, "open");
  socket.send("close 4001 bye");
  const [code, reason] = await once(socket, "close");
  seen.told = [code, reason.toString()];
  const refused = open("refuse");
  const [, response] = await once(refused, "unexpected-response");
  const body = await response.toArray();
  seen.refused = [response.statusCode, Buffer.concat(body).toString()];
  console.log(JSON.stringify(seen));
  process.exit(); // the connection that was refused is kept for a next request, and would keep the process
}

main();
