// MQTT.js over WebSocket: node client.js URL VERSIONS [READER], e.g. ws://localhost:8080/mqtt 4,5 mqtt://127.0.0.1:1883
// What is larger than some KB is read back at the URL too, or at READER, the same broker without WebSockets.
// It prints what it saw as one JSON value; topics and client names are its own, so that runs do not meet at the broker.
"use strict";

const crypto = require("crypto");
const { once } = require("events");
const net = require("net");
const tls = require("tls");
const mqtt = require("mqtt");
const WebSocket = require("ws");

const [url, versions, reader = url] = process.argv.slice(2);
const run = crypto.randomUUID();
const hide = (text) => text.replaceAll(run, "RUN");
const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");

// Bytes that no compression makes smaller, the same in each run.
function noise(size) {
  const cipher = crypto.createCipheriv("aes-128-ctr", Buffer.alloc(16, 1), Buffer.alloc(16, 2));
  return cipher.update(Buffer.alloc(size));
}

// A client whose WebSocket is at hand, and what it hears, in order.
async function connect(name, options = {}, address = url) {
  const sockets = [];
  const { port, hostname, protocol } = new URL(address);
  let raw; // the TCP socket, below TLS where there is TLS
  const keepRaw = () => {
    raw = net.connect(port, "127.0.0.1");
    return protocol === "wss:" ? tls.connect({ socket: raw, servername: hostname }) : raw;
  };
  const client = mqtt.connect(address, {
    clientId: `${name}-${run}`,
    reconnectPeriod: 0,
    createWebsocket: (at, subprotocols) => {
      sockets.push(new WebSocket(at, subprotocols, { perMessageDeflate: true, createConnection: keepRaw }));
      return sockets[0];
    },
    ...options,
  });
  client.on("error", (error) => {
    throw error;
  });
  const heard = [];
  let wake = () => {};
  client.on("message", (topic, payload, packet) => {
    heard.push({ topic: hide(topic), qos: packet.qos, retain: packet.retain, dup: packet.dup, payload });
    wake();
  });
  const next = async (count) => {
    while (heard.length < count) await new Promise((resolve) => (wake = resolve));
    return heard.splice(0, count);
  };
  const [connack] = await once(client, "connect");
  const [socket] = sockets;
  if (!socket) return { client, next };
  const closed = once(socket, "close").then(([code, reason]) => [code, reason.toString()]);
  const seen = {
    subprotocol: socket.protocol,
    extensions: socket.extensions,
    returnCode: connack.returnCode ?? null,
    reasonCode: connack.reasonCode ?? null,
    sessionPresent: connack.sessionPresent,
    properties: connack.properties ?? null,
  };
  return { client, socket, raw, closed, next, seen };
}

const short = ({ payload, ...rest }) => ({ ...rest, size: payload.length, sha256: sha256(payload) });

// One publishes, the other has subscribed: each quality of service, 1,000 small ones, and up to 1 MB.
async function messages(protocolVersion) {
  const subscriber = await connect(`subscriber${protocolVersion}`, { protocolVersion });
  const publisher = await connect(`publisher${protocolVersion}`, { protocolVersion });
  const seen = { subscriber: subscriber.seen, publisher: publisher.seen, qos: [], small: [] };
  const topic = `${run}/${protocolVersion}`;
  const granted = await subscriber.client.subscribeAsync({ [`${topic}/+`]: { qos: 2 } });
  seen.granted = granted.map((each) => ({ topic: hide(each.topic), qos: each.qos }));
  for (const qos of [0, 1, 2]) {
    for (const size of [0, 1, 125, 126, 3000]) {
      await publisher.client.publishAsync(`${topic}/${size}`, noise(size), { qos });
      seen.qos.push(short((await subscriber.next(1))[0]));
    }
  }
  for (const qos of [0, 1, 2]) {
    // Ten at a time where they are acknowledged: brokers limit how many may be under way.
    const atOnce = qos === 0 ? 1000 : 10;
    for (let number = 0; number < 1000; number += atOnce) {
      const numbers = Array.from({ length: atOnce }, (_, index) => String(number + index));
      await Promise.all(numbers.map((text) => publisher.client.publishAsync(`${topic}/small`, text, { qos })));
    }
    const back = await subscriber.next(1000);
    const order = back.map(({ payload }) => payload.toString());
    seen.small.push([back.length, sha256(order.join()), order.every((text, number) => text === String(number)), back[999].qos]);
  }
  seen.large = await large(publisher, protocolVersion);
  await leave(publisher);
  await leave(subscriber);
  return seen;
}

async function large(publisher, protocolVersion) {
  const { client, next } = await connect(`reader${protocolVersion}`, { protocolVersion }, reader);
  const topic = `${run}/large/${protocolVersion}`;
  await client.subscribeAsync(topic, { qos: 2 });
  const seen = [];
  for (const qos of [0, 1, 2]) {
    for (const size of [65535, 65536, 1 << 20]) {
      await publisher.client.publishAsync(topic, noise(size), { qos });
      seen.push(short((await next(1))[0]));
    }
  }
  await client.endAsync();
  return seen;
}

// A leave that is taken in MQTT's own way. Whether a Close of the WebSocket follows is a race even without a gateway: the
// broker may drop the connection as soon as it has read the DISCONNECT. So how it closed is not told.
async function leave({ client, closed }) {
  await client.endAsync();
  await closed;
}

// A retained message reaches who subscribes after it, and no longer once it was cleared.
async function retained() {
  const topic = `${run}/retained`;
  const publisher = await connect("keeper");
  await publisher.client.publishAsync(topic, "kept", { qos: 1, retain: true });
  const later = await connect("later");
  await later.client.subscribeAsync(topic, { qos: 1 });
  const seen = { kept: (await later.next(1)).map(short) };
  await publisher.client.publishAsync(topic, "", { qos: 1, retain: true });
  seen.cleared = (await later.next(1)).map(short);
  const last = await connect("last");
  await last.client.subscribeAsync(topic, { qos: 1 });
  await publisher.client.publishAsync(topic, "fresh", { qos: 1 });
  seen.fresh = (await last.next(1)).map(short);
  for (const each of [publisher, later, last]) await leave(each);
  return seen;
}

// A session that is kept while its client is away: what was published meanwhile comes at once when it is back.
async function session() {
  const topic = `${run}/session`;
  const options = { clean: false };
  const first = await connect("sleeper", options);
  await first.client.subscribeAsync(topic, { qos: 1 });
  await leave(first);
  const publisher = await connect("waker");
  await publisher.client.publishAsync(topic, "while you slept", { qos: 1 });
  const again = await connect("sleeper", options);
  const seen = { before: first.seen.sessionPresent, after: again.seen.sessionPresent };
  seen.missed = (await again.next(1)).map(short);
  await leave(publisher);
  await leave(again);
  return seen;
}

// The last will of a client is published when its connection breaks off, and not when it takes its leave.
async function wills() {
  const watcher = await connect("watcher");
  await watcher.client.subscribeAsync(`${run}/will/+`, { qos: 1 });
  const seen = {};
  const ways = {
    left: ({ client }) => client.endAsync(),
    destroyed: ({ socket }) => socket.terminate(),
    reset: ({ raw }) => raw.resetAndDestroy(),
    closed: ({ socket }) => socket.close(4002, "no DISCONNECT"),
  };
  for (const [way, end] of Object.entries(ways)) {
    const will = { topic: `${run}/will/${way}`, payload: `the will of ${way}`, qos: 1 };
    const mortal = await connect(`mortal-${way}`, { will });
    end(mortal);
    const closed = await mortal.closed;
    // Whether or not there was a will before it: this one is heard.
    if (way === "left") await watcher.client.publishAsync(`${run}/will/none`, "no will", { qos: 1 });
    const [heard] = await watcher.next(1);
    seen[way] = { closed: way === "left" ? null : closed, topic: heard.topic, payload: heard.payload.toString() };
  }
  await leave(watcher);
  return seen;
}

// MQTT's own keep-alive, once a second: two answers of it.
async function keepAlive() {
  const idle = await connect("idle", { keepalive: 1 });
  const heard = [];
  for (let count = 0; count < 2; count++) {
    const packet = await new Promise((resolve) => idle.client.once("packetreceive", resolve));
    heard.push(packet.cmd);
  }
  await leave(idle);
  return heard;
}

async function main() {
  const seen = {};
  for (const version of versions.split(",")) seen[`mqtt${version}`] = await messages(Number(version));
  Object.assign(seen, { retained: await retained(), session: await session() });
  console.log(JSON.stringify({ ...seen, wills: await wills(), keepAlive: await keepAlive() }));
}

main();
