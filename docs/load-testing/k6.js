// Each virtual user of k6 opens one tunnel after another, has ten messages echoed and closes:
// k6 run --vus 500 --iterations 2000 k6.js
import { WebSocket } from "k6/experimental/websockets";
import { check } from "k6";

const url = __ENV.URL || "ws://127.0.0.1:8000/echo";
const messages = Array.from({ length: 10 }, (_, number) => `message ${number} `.padEnd(125, "."));

export const options = { thresholds: { checks: ["rate==1"] } };

export default function () {
  const tunnel = new WebSocket(url);
  const answers = [];
  tunnel.onopen = () => tunnel.send(messages[0]);
  tunnel.onmessage = (message) => {
    answers.push(message.data);
    if (answers.length < messages.length) tunnel.send(messages[answers.length]);
    else tunnel.close();
  };
  tunnel.onclose = () => check(answers, { "all came back": () => answers.join() === messages.join() });
  tunnel.onerror = (event) => console.error(event.error);
}
