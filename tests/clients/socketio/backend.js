// A socket.io server under the path /socketio: echoes, rooms, and three ways to end a session. It prints its port.
"use strict";

const http = require("http");
const { Server } = require("socket.io");

const server = http.createServer();
const io = new Server(server, {
  path: "/socketio",
  perMessageDeflate: { threshold: 1024 },
  maxHttpBufferSize: 4 << 20,
  cookie: { name: "io", httpOnly: true, sameSite: "lax" },
});

io.on("connection", (socket) => {
  socket.on("session", (answer) => answer({ id: socket.conn.id, transport: socket.conn.transport.name }));
  socket.on("echo", (value, answer) => answer(value));
  socket.on("small", (number) => socket.emit("small", number));
  socket.on("join", (room, answer) => {
    socket.join(room);
    answer([...socket.rooms].length);
  });
  socket.on("tell", (room, message) => io.to(room).emit("told", room, message));
  socket.on("dismiss", () => socket.disconnect(true));
  socket.on("hang up", () => socket.conn.close());
  // Who is still there tells why the other one is gone, as the server saw it.
  socket.on("disconnect", (reason) => io.to("watchers").emit("gone", reason));
});

server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
