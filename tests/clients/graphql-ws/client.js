// graphql-ws' own client, and the `ws` below it where the protocol is to be broken: node client.js URL
// It prints what it saw as one JSON value; nothing in it is random or depends on time.
"use strict";

const crypto = require("crypto");
const { once } = require("events");
const { createClient } = require("graphql-ws");
const WebSocket = require("ws");

const url = process.argv[2];
const sha256 = (text) => crypto.createHash("sha256").update(text).digest("hex");

// A client, and what its socket says of itself.
function connect(connectionParams) {
  const seen = {};
  const client = createClient({ url, webSocketImpl: WebSocket, lazy: false, retryAttempts: 0, connectionParams, onNonLazyError: () => {} });
  client.on("connected", (socket) => Object.assign(seen, { subprotocol: socket.protocol, extensions: socket.extensions }));
  const closed = new Promise((resolve) => client.on("closed", ({ code, reason, wasClean }) => resolve({ code, reason, wasClean })));
  return { client, seen, closed };
}

async function answers(client, payload) {
  const all = [];
  for await (const answer of client.iterate(payload)) all.push(answer);
  return all;
}

async function inOrder() {
  const { client, seen, closed } = connect();
  const ask = async (query, variables) => (await answers(client, { query, variables }))[0];
  seen.query = await ask("{ echo(text: \"hello\") subprotocol }");
  seen.error = await ask("{ fail }");
  seen.invalid = await ask("{ nothing }").catch((errors) => errors);
  const text = "Spliceway ".repeat(1 << 17).slice(0, 1 << 20);
  const back = (await ask("query ($text: String!) { echo(text: $text) }", { text })).data.echo;
  seen.large = [back.length, sha256(back), back === text];
  const events = await answers(client, { query: "subscription { count(to: 1000) }" });
  seen.events = [events.length, sha256(JSON.stringify(events)), events.every((event, index) => event.data.count === index)];
  const side = [200, 300, 500].map((to) => answers(client, { query: `subscription { count(to: ${to}) }` }));
  seen.atOnce = (await Promise.all(side)).map((list) => [list.length, list.every((event, index) => event.data.count === index)]);
  seen.unsubscribed = await unsubscribe(client);
  await client.dispose();
  return { ...seen, closed: await closed };
}

// Leaves a subscription that would never end: the server notices, and says so on another one.
async function unsubscribe(client) {
  const numbers = [];
  const variables = { name: crypto.randomUUID() };
  for await (const event of client.iterate({ query: "subscription ($name: String!) { forever(name: $name) }", variables })) {
    numbers.push(event.data.forever);
    if (numbers.length === 10) break;
  }
  return { numbers, ended: await answers(client, { query: "subscription ($name: String!) { ended(name: $name) }", variables }) };
}

// Says these messages by hand, and is closed by the server for it.
async function broken(...messages) {
  return closed(new WebSocket(url, "graphql-transport-ws"), messages);
}

async function closed(socket, messages) {
  const heard = [];
  socket.on("message", (data) => heard.push(data.toString()));
  const end = once(socket, "close");
  await once(socket, "open");
  const opened = { subprotocol: socket.protocol, extensions: socket.extensions };
  for (const message of messages) socket.send(message);
  const [code, reason] = await end;
  return { ...opened, heard, code, reason: reason.toString() };
}

// A ping of the WebSocket's own and one of the subprotocol's, then a close by the client.
async function pings() {
  const socket = new WebSocket(url, "graphql-transport-ws");
  await once(socket, "open");
  socket.send(INIT);
  const ack = (await once(socket, "message"))[0].toString();
  socket.ping(Buffer.alloc(125, "p"));
  const pong = (await once(socket, "pong"))[0].toString();
  socket.send(JSON.stringify({ type: "ping", payload: { a: 1 } }));
  const answer = (await once(socket, "message"))[0].toString();
  socket.close(4321, "enough");
  const [code, reason] = await once(socket, "close");
  return { ack, pong, answer, code, reason: reason.toString() };
}

const INIT = JSON.stringify({ type: "connection_init" });
const SUBSCRIBE = JSON.stringify({ id: "1", type: "subscribe", payload: { query: 'subscription { ended(name: "never") }' } });

async function main() {
  const seen = { inOrder: await inOrder(), pings: await pings() };
  const forbidden = connect({ word: "wrong" });
  seen.closes = {
    "no JSON": await broken("no JSON"),
    "no such type": await broken(INIT, JSON.stringify({ type: "dance" })),
    "no init": await broken(SUBSCRIBE),
    forbidden: { ...(await forbidden.closed), ...forbidden.seen },
    silent: await closed(new WebSocket(url + "/impatient", "graphql-transport-ws"), []),
    "same id": await broken(INIT, SUBSCRIBE, SUBSCRIBE),
    "init twice": await broken(INIT, INIT),
  };
  console.log(JSON.stringify(seen));
}

main();
