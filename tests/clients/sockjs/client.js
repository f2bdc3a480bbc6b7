// SockJS' own client: node client.js URL TRANSPORT, e.g. http://localhost:8080/sockjs xhr-streaming; and, with "answers"
// as the transport, its streaming answers read by hand. It prints what it saw as one JSON value.
"use strict";

const crypto = require("crypto");
const { once } = require("events");
const http = require("http");
const https = require("https");
const SockJS = require("sockjs-client");

const [base, transport] = process.argv.slice(2);
const sha256 = (text) => crypto.createHash("sha256").update(text).digest("hex");

// An open session of the transport that is asked for, without falling back to another.
async function open() {
  const socket = new SockJS(base, null, { transports: [transport], timeout: 30_000 });
  const messages = [];
  let wake = () => {};
  socket.onmessage = (event) => {
    messages.push(event.data);
    wake();
  };
  const closed = new Promise((resolve) => (socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean })));
  const opened = await Promise.race([new Promise((resolve) => (socket.onopen = () => resolve(true))), closed]);
  if (opened !== true) throw new Error(`not opened: ${JSON.stringify(opened)}`);
  const next = async (count) => {
    while (messages.length < count) await new Promise((resolve) => (wake = resolve));
    return messages.splice(0, count);
  };
  return { socket, closed, next };
}

async function session() {
  const { socket, closed, next } = await open();
  const seen = { transport: socket.transport };
  // Each message leaves only once the one before has come back: a transport that is buffered on its way stands still here.
  seen.turns = [];
  for (let turn = 0; turn < 20; turn++) {
    socket.send(`turn ${turn}`);
    seen.turns.push(...(await next(1)));
  }
  socket.send("ünï ☃ \u0000 \ud83d\ude00");
  seen.unicode = await next(1);
  const large = "Spliceway ".repeat(1 << 17).slice(0, 1 << 20);
  socket.send(large);
  const [back] = await next(1);
  seen.large = [back.length, sha256(back), back === large];
  for (let number = 0; number < 1000; number++) socket.send(String(number));
  const small = await next(1000);
  seen.small = [small.length, sha256(small.join()), small.every((text, number) => text === String(number))];
  socket.send("go away");
  seen.sentAway = await closed;
  return seen;
}

// A client that leaves is noticed by the server, which tells another one.
async function leaving() {
  const stays = await open();
  stays.socket.send("tell me");
  const promise = await stays.next(1);
  const leaves = await open();
  leaves.socket.send("here");
  const echo = await leaves.next(1);
  leaves.socket.close(4321, "enough");
  const here = await leaves.closed;
  const told = await stays.next(1);
  stays.socket.send("go away");
  return { promise, echo, here, told, stays: await stays.closed };
}

// Dates and what belongs to one connection differ by nature, and each party chooses its own framing.
const NOT_COMPARED = ["date", "expires", "connection", "keep-alive", "transfer-encoding", "via"];

async function request(method, path, body) {
  const client = base.startsWith("https") ? https : http;
  const headers = body ? { "Content-Type": "text/plain", "Content-Length": Buffer.byteLength(body) } : {};
  const asked = client.request(base + path, { method, headers: { ...headers, Origin: "http://example.com" }, agent: false });
  const [answer] = await once(asked.end(body), "response");
  answer.setEncoding("utf8");
  const kept = Object.entries(answer.headers).filter(([name]) => !NOT_COMPARED.includes(name));
  return { answer, head: { status: answer.statusCode, headers: Object.fromEntries(kept) } };
}

async function whole(method, path, body) {
  const { answer, head } = await request(method, path, body);
  let text = "";
  for await (const chunk of answer) text += chunk;
  return { ...head, body: text.replace(/"entropy":\d+/, '"entropy":0') };
}

// One streaming answer, read as it comes: after each message that is posted its frame is waited for, and the answer has
// not ended by then. The server ends it after a close, which the last frame tells.
async function stream(method, name, first, frame) {
  const path = `/000/${crypto.randomUUID()}`;
  const { answer, head } = await request(method, `${path}/${name}`);
  let text = "";
  let ended = false;
  let wake = () => {};
  answer.on("data", (chunk) => {
    text += chunk;
    wake();
  });
  answer.on("end", () => {
    ended = true;
    wake();
  });
  const until = async (there) => {
    while (!there() && !ended) await new Promise((resolve) => (wake = resolve));
  };
  const steps = [];
  const step = async (expected) => {
    await until(() => text.endsWith(expected));
    steps.push({ text: text.length > 1000 ? [text.length, sha256(text)] : text, arrived: text.endsWith(expected), open: !ended });
    text = "";
  };
  await step(first + frame("o"));
  const posts = [];
  for (const message of ["one", "two", "three"]) {
    posts.push(await whole("POST", `${path}/xhr_send`, JSON.stringify([message])));
    await step(frame(`a["${message}"]`));
  }
  posts.push(await whole("POST", `${path}/xhr_send`, '["go away"]'));
  await until(() => false);
  return { head, steps, posts, rest: text, ended };
}

async function answers() {
  const lines = (text) => `${text}\n`;
  const events = (text) => `data: ${text}\r\n\r\n`;
  return {
    info: await whole("GET", "/info"),
    greeting: await whole("GET", ""),
    options: await whole("OPTIONS", "/000/a/xhr"),
    unknown: await whole("POST", "/000/nobody/xhr_send", '["x"]'),
    xhrStreaming: await stream("POST", "xhr_streaming", "", lines),
    eventsource: await stream("GET", "eventsource", "", events),
  };
}

async function main() {
  const seen = transport === "answers" ? await answers() : { session: await session(), leaving: await leaving() };
  console.log(JSON.stringify(seen));
}

main();
