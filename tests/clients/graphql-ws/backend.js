// A GraphQL server over WebSocket at /graphql: node backend.js prints its port.
"use strict";

const http = require("http");
const { GraphQLError, buildSchema } = require("graphql");
const { useServer } = require("graphql-ws/use/ws");
const { WebSocketServer } = require("ws");

const schema = buildSchema(`
  type Query {
    echo(text: String!): String!
    fail: String
    subprotocol: String!
  }
  type Subscription {
    count(to: Int!): Int!
    forever(name: String!): Int!
    ended(name: String!): String!
  }
`);

// Each subscription "forever" has a name; who subscribes to the end of one is told when its generator has ended.
const ends = new Map();

function endOf(name) {
  if (!ends.has(name)) {
    let tell;
    ends.set(name, { come: new Promise((resolve) => (tell = resolve)), tell });
  }
  return ends.get(name);
}

const roots = {
  query: {
    echo: ({ text }) => text,
    fail: () => {
      throw new GraphQLError("failed on purpose", { extensions: { code: "ON_PURPOSE" } });
    },
    subprotocol: (_, context) => context.extra.socket.protocol,
  },
  subscription: {
    count: async function* ({ to }) {
      for (let number = 0; number < to; number++) yield { count: number };
    },
    forever: async function* ({ name }) {
      try {
        for (let number = 0; ; number++) yield { forever: await new Promise((resolve) => setImmediate(resolve, number)) };
      } finally {
        endOf(name).tell("its generator has ended");
      }
    },
    ended: async function* ({ name }) {
      yield { ended: await endOf(name).come };
    },
  },
};

const server = http.createServer((_, answer) => answer.writeHead(404).end());
// Paths and how long each waits for the client's ConnectionInit: on one of them its absence can be waited for.
const waits = { "/graphql": 60_000, "/graphql/impatient": 100 };
const paths = new Map();
for (const [path, connectionInitWaitTimeout] of Object.entries(waits)) {
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: { threshold: 1024 } });
  const onConnect = (context) => context.connectionParams?.word !== "wrong";
  useServer({ schema, roots, context: (context) => context, connectionInitWaitTimeout, onConnect }, sockets);
  paths.set(path, sockets);
}
server.on("upgrade", (request, socket, head) => {
  const sockets = paths.get(request.url);
  if (!sockets) return socket.destroy();
  sockets.handleUpgrade(request, socket, head, (websocket) => sockets.emit("connection", websocket, request));
});

server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
