// The backend by the npm package ws: echoes, on the port that docs/load-testing/gateway.toml forwards to, at any address.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "0.0.0.0", port: 9000, backlog: 4096 });

server.on("connection", (connection) => connection.on("message", (data, binary) => connection.send(data, { binary })));
server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
