// The client by the npm package undici: URL CA. It cannot send pings of its own, and answers those of the server.
const { createHash } = require("crypto");
const fs = require("fs");
const { Agent, WebSocket } = require("undici");

const [url, ca] = process.argv.slice(2);
const dispatcher = new Agent({ connect: { ca: fs.readFileSync(ca) } });

function open(path) {
  const socket = new WebSocket(`${url}/${path}`, { protocols: ["other", "echo.v1"], dispatcher });
  socket.binaryType = "arraybuffer";
  return socket;
}

const once = (socket, kind) => new Promise((resolve) => socket.addEventListener(kind, resolve, { once: true }));
const next = async (socket) => (await once(socket, "message")).data;

async function talk(seen) {
  const socket = open("chat?by=client");
  await once(socket, "open");
  seen.subprotocol = socket.protocol;
  seen.extensions = socket.extensions;
  socket.send(Buffer.alloc(1 << 20, Uint8Array.from({ length: 256 }, (_, at) => at)));
  seen.big = createHash("sha256").update(Buffer.from(await next(socket))).digest("hex");
  const small = createHash("sha256");
  for (let number = 0; number < 1000; number++) {
    socket.send(`message ${number}`);
    small.update(await next(socket));
  }
  seen.small = small.digest("hex");
  socket.send("ping me");
  seen.pinged = await next(socket);
  const closed = once(socket, "close");
  socket.close(4002, "enough");
  const { code, reason, wasClean } = await closed;
  seen.closed = [code, reason, wasClean];
}

async function main() {
  const seen = {};
  await talk(seen);
  const socket = open("chat?by=server");
  await once(socket, "open");
  const closed = once(socket, "close");
  socket.send("close 4001 bye");
  const { code, reason, wasClean } = await closed;
  seen.told = [code, reason, wasClean];
  const refused = open("refuse");
  const failed = once(refused, "error");
  const ended = await once(refused, "close");
  seen.refused = [(await failed).message, ended.code];
  console.log(JSON.stringify(seen));
  await dispatcher.close();
}

main();
