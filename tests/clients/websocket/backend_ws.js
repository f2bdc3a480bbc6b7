// The backend by the npm package ws: PATH of certificate and key, or nothing for no TLS.
const fs = require("fs");
const http = require("http");
const https = require("https");
const { WebSocketServer } = require("ws");

const [certificate, key] = process.argv.slice(2);
const server = certificate
  ? https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) })
  : http.createServer();
const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => (offered.has("echo.v1") ? "echo.v1" : false),
});

server.on("upgrade", (request, socket, head) => {
  if (request.url.includes("/refuse")) {
    socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\nConnection: close\r\n\r\nnot you\n");
    return;
  }
  sockets.handleUpgrade(request, socket, head, (connection) => answer(connection, request.url));
});

function answer(connection, path) {
  connection.on("message", (data, binary) => {
    const text = binary ? null : data.toString();
    if (text === "close 4001 bye") connection.close(4001, "bye");
    else if (text === "ping me") connection.ping("are you there?");
    else connection.send(data, { binary });
  });
  connection.on("pong", (data) => connection.send(data.toString() === "are you there?" ? "ponged" : "not my pong"));
  connection.on("close", (code, reason) => console.error(JSON.stringify({ path, code, reason: reason.toString() })));
}

server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
