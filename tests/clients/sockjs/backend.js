// A SockJS server under /sockjs: an echo that obeys a few orders. It prints its port.
"use strict";

const http = require("http");
const sockjs = require("sockjs");

const server = http.createServer();
const service = sockjs.createServer({ log: () => {} });
let ended = () => {};

service.on("connection", (connection) => {
  connection.on("data", (message) => {
    if (message === "go away") return connection.close(4001, "as you wish");
    if (message === "tell me") {
      ended = (what) => connection.write(what);
      return connection.write("I will");
    }
    connection.write(message);
  });
  // Who asked for it is told that another one has ended.
  connection.on("close", () => ended("one has ended"));
});

service.installHandlers(server, { prefix: "/sockjs" });
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
