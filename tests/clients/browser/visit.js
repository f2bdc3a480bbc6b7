// Visits the test page as a person does: URL PATH PICTURES. Prints what was seen.
const { chromium } = require("playwright-core");
const path = require("path");

const [url, service, pictures] = process.argv.slice(2);
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];

async function main() {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", headless: true, args: FLAGS });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  const picture = (name) => page.screenshot({ path: path.join(pictures, `${name}.png`) });

  await page.goto(url);
  // The page itself connects to /echo and greets.
  await line(page, "RESPONSE", "WebSocket rocks");
  await picture("greeted");
  await page.getByLabel("Path on this server").fill(service);
  await page.getByRole("button", { name: "Connect" }).click();
  await line(page, "CONNECTED", service);
  await page.getByLabel("Text").fill("typed by a person");
  await page.getByRole("button", { name: "Send" }).click();
  await line(page, "SENT", "typed by a person");
  await line(page, "RESPONSE", "typed by a person");
  await page.getByText("Code and reason of the Close").click();
  await page.getByLabel("Code", { exact: true }).fill("4321");
  await page.getByLabel("Reason").fill("seen enough");
  await page.getByRole("button", { name: "Close" }).click();
  await page.locator("#state[data-state=closed]").waitFor();
  await page.locator("#log span", { hasText: "4321" }).first().waitFor();
  await picture("closed");
  const lines = await page.locator("#log span").allInnerTexts();
  console.log(JSON.stringify({ title: await page.title(), lines, complaints }));
  await browser.close();
}

// A line of the page's log with this word and this text.
function line(page, word, text) {
  return page.locator("#log span", { hasText: word }).filter({ hasText: text }).first().waitFor();
}

main();
