// The backend by the npm package ws: echoes messages of any size, with deflate where the client asks for it.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  // No limits: messages of 16 MiB, and of 64 thousand fragments.
  maxPayload: 0,
  maxFragments: 0,
  maxBufferedChunks: 0,
  // The cheapest level: what is judged is the way through the gateway, and there are gigabytes of it.
  perMessageDeflate: { threshold: 0, zlibDeflateOptions: { level: 1 } },
});

server.on("connection", (connection) => {
  connection.on("message", (data, binary) => connection.send(data, { binary }));
  connection.on("error", () => {}); // what is wrong with a frame is for the client to be told, by a Close
});
server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
