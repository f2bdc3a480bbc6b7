// The backend by the npm package ws: echoes, on the port that docs/load-testing/gateway.toml forwards to.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: 9000, backlog: 4096 });

server.on("connection", (connection) => connection.on("message", (data, binary) => connection.send(data, { binary })));
server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
