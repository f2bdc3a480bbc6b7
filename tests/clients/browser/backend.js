// An echo for the browser to talk to through the gateway, by the npm package ws; says on standard error how each ended.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ port: 0, host: "127.0.0.1" }, () =>
  console.log(JSON.stringify({ port: server.address().port })),
);
server.on("connection", (connection) => {
  connection.on("message", (data, binary) => connection.send(data, { binary }));
  connection.on("close", (code, reason) => console.error(JSON.stringify({ code, reason: reason.toString() })));
});
