// socket.io's own client: node client.js URL TRANSPORTS, e.g. http://localhost:8080 polling,websocket
// It prints what it saw as one JSON value; nothing in it is random or depends on time.
"use strict";

const crypto = require("crypto");
const { once } = require("events");
const http = require("http");
const https = require("https");
const { io } = require("socket.io-client");
const WebSocket = require("ws");

const [base, names] = process.argv.slice(2);
const transports = names.split(",");
const upgrades = transports.length > 1;

const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");

// Bytes that no compression makes smaller, the same in each run.
function noise(size) {
  const cipher = crypto.createCipheriv("aes-128-ctr", Buffer.alloc(16, 1), Buffer.alloc(16, 2));
  return cipher.update(Buffer.alloc(size));
}

// An open session and how it came about; with an upgrade, only once the upgrade is done.
async function open() {
  const socket = io(base, { path: "/socketio", transports, forceNew: true, reconnection: false, perMessageDeflate: { threshold: 1024 } });
  const failed = (error) => {
    throw error;
  };
  socket.io.on("error", failed);
  socket.on("connect_error", failed);
  await new Promise((resolve) => socket.io.once("open", resolve));
  const engine = socket.io.engine;
  const began = { transport: engine.transport.name, id: engine.id };
  const upgraded = upgrades ? new Promise((resolve) => engine.once("upgrade", resolve)) : Promise.resolve();
  const crossed = collect(socket, "small", 200);
  await once(socket, "connect");
  // Under way while the session changes from one transport to the other, and after it.
  for (let number = 0; number < 100; number++) socket.emit("small", number);
  await upgraded;
  for (let number = 100; number < 200; number++) socket.emit("small", number);
  const order = await crossed;
  const atServer = await socket.emitWithAck("session");
  const seen = {
    began: began.transport,
    now: engine.transport.name,
    sameSession: began.id === engine.id && atServer.id === engine.id,
    atServer: atServer.transport,
    inOrder: order.every((number, index) => number === index),
    extensions: engine.transport.ws?.extensions ?? null,
    subprotocol: engine.transport.ws?.protocol ?? null,
  };
  return { socket, seen };
}

function collect(socket, event, count) {
  const values = [];
  return new Promise((resolve) =>
    socket.on(event, function listener(value) {
      values.push(value);
      if (values.length === count) {
        socket.off(event, listener);
        resolve(values);
      }
    }),
  );
}

async function messages(socket) {
  const seen = {};
  const large = { noise: noise(1 << 20), zeros: Buffer.alloc(1 << 20), text: "Spliceway ".repeat(100000) };
  for (const [name, value] of Object.entries(large)) {
    const back = await socket.emitWithAck("echo", value);
    seen[name] = [back.length, sha256(back), sha256(value) === sha256(back)];
  }
  seen.nested = await socket.emitWithAck("echo", { a: [1, "ü", null], b: { c: Buffer.from([0, 255]).toString("hex") } });
  const small = collect(socket, "small", 1000);
  for (let number = 0; number < 1000; number++) socket.emit("small", number);
  const back = await small;
  seen.small = [back.length, sha256(JSON.stringify(back)), back.every((number, index) => number === index)];
  return seen;
}

// Both are in the room, then only one of them: the second message shows who got the first.
async function rooms(one, other) {
  const heard = { one: collect(one, "told", 2), other: collect(other, "told", 1) };
  const counts = [await one.emitWithAck("join", "red"), await other.emitWithAck("join", "red")];
  const blue = await one.emitWithAck("join", "blue");
  one.emit("tell", "red", "to both");
  other.emit("tell", "blue", "to one");
  return { counts, blue, one: (await heard.one).sort(), other: await heard.other };
}

// Ends a session in some way: what the client is told, and what the server told the watcher.
async function ends(watcher, how) {
  const { socket, seen } = await open();
  const here = new Promise((resolve) => socket.once("disconnect", resolve));
  const there = new Promise((resolve) => watcher.once("gone", resolve));
  how(socket);
  return { client: await here, server: await there, opened: seen };
}

// A plain request by node's own client, on a connection of its own. Date and what belongs to one connection differ by
// nature, and each party chooses its own framing.
const OF_THE_HOP = ["date", "connection", "keep-alive", "transfer-encoding", "via"];
async function request(method, path, headers = {}) {
  const client = base.startsWith("https") ? https : http;
  const [answer] = await once(client.request(base + path, { method, headers, agent: false }).end(), "response");
  let body = "";
  for await (const chunk of answer) body += chunk;
  const kept = Object.entries(answer.headers).filter(([name]) => !OF_THE_HOP.includes(name));
  const hide = (text) => text.replace(/("sid":"|io=)[A-Za-z0-9_-]{20}/, "$1SESSION");
  for (const entry of kept) entry[1] = [entry[1]].flat().map(hide);
  return { status: answer.statusCode, headers: Object.fromEntries(kept), body: hide(body) };
}

// A session that does not exist: the server refuses the opening handshake with an answer of its own.
async function refused() {
  const socket = new WebSocket(base.replace("http", "ws") + "/socketio/?EIO=4&transport=websocket&sid=nobody");
  const [asked, answer] = await once(socket, "unexpected-response");
  const connection = asked.socket;
  let body = "";
  for await (const chunk of answer) body += chunk;
  connection.destroy(); // the gateway would keep the connection for another request
  return { status: answer.statusCode, type: answer.headers["content-type"] ?? null, body };
}

async function main() {
  const seen = {};
  const watcher = await open();
  const speaker = await open();
  seen.watcher = watcher.seen;
  seen.speaker = speaker.seen;
  await watcher.socket.emitWithAck("join", "watchers");
  seen.messages = await messages(speaker.socket);
  seen.rooms = await rooms(speaker.socket, watcher.socket);
  seen.ends = {
    dismissed: await ends(watcher.socket, (socket) => socket.emit("dismiss")),
    hungUp: await ends(watcher.socket, (socket) => socket.emit("hang up")),
    left: await ends(watcher.socket, (socket) => socket.disconnect()),
  };
  if (names !== "polling") seen.ends.broken = await ends(watcher.socket, (socket) => socket.io.engine.transport.ws.terminate());
  seen.plain = {
    opened: await request("GET", "/socketio/?EIO=4&transport=polling", { Origin: "http://example.com" }),
    unknown: await request("GET", "/socketio/?EIO=4&transport=polling&sid=nobody"),
    wrongMethod: await request("PUT", "/socketio/?EIO=4&transport=polling"),
    refused: await refused(),
  };
  speaker.socket.disconnect();
  watcher.socket.disconnect();
  console.log(JSON.stringify(seen));
}

main();
