"use strict";
// An echo behind the gateway, by the package ws. Closes when it is told to, with the code and reason of the message.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => {
  console.log(JSON.stringify({ port: server.address().port }));
});

server.on("connection", socket => {
  socket.on("message", (data, binary) => {
    const order = /^close (\d+) (.*)$/.exec(data.toString());
    if (!binary && order) socket.close(Number(order[1]), order[2]);
    else socket.send(data, { binary });
  });
});
