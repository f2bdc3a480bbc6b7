// A broker by aedes, over WebSockets at /aedes. It prints its port.
"use strict";

const { Aedes } = require("aedes");
const { WebSocketServer, createWebSocketStream } = require("ws");

async function main() {
  const broker = await Aedes.createBroker();
  const handleProtocols = (offered) => (offered.has("mqtt") ? "mqtt" : false);
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, path: "/aedes", handleProtocols, perMessageDeflate: true });
  server.on("connection", (socket, request) => broker.handle(createWebSocketStream(socket), request));
  server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
}

main();
