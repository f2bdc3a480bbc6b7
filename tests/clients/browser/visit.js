"use strict";
// visit.js URL FOLDER: a person before the test page, in Debian's Chromium. Prints what was seen as one line of JSON; leaves
// screenshots in FOLDER.
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

// Less than the guard of the suite, so that what did not come is named.
const GUARD = 50_000;
const ARGUMENTS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
  "--disable-sync", "--disable-quic",
];

async function main(url, folder) {
  // A profile of its own, fresh each time.
  const profile = fs.mkdtempSync(path.join(folder, "profile-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium", args: ARGUMENTS, ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 },
  });
  try {
    console.log(JSON.stringify(await visit(context, url, name => path.join(folder, `${new URL(url).protocol.slice(0, -1)}-${name}.png`))));
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true });
  }
}

async function visit(context, url, file) {
  const page = context.pages()[0];
  const complaints = [];
  const sockets = [];
  page.on("console", message => complaints.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", error => complaints.push(`error: ${error.message}`));
  page.on("requestfailed", request => complaints.push(`failed: ${request.url()}`));
  page.on("websocket", socket => sockets.push(new URL(socket.url()).protocol + new URL(socket.url()).pathname));
  page.setDefaultTimeout(GUARD);

  const seen = {};
  const answer = await page.goto(url);
  seen.page = { status: answer.status(), title: await page.title() };
  await logged(page, "RESPONSE: WebSocket rocks");
  seen.greeting = await takeLog(page);
  await page.screenshot({ path: file("1-greeting") });

  await write(page, "Grüße, 世界 👋");
  await logged(page, "RESPONSE: Grüße, 世界 👋");
  // By the keyboard alone.
  await page.locator("#message").fill("by Enter");
  await page.locator("#message").press("Enter");
  await logged(page, "RESPONSE: by Enter");
  await page.locator("#binary").check();
  await write(page, "bytes");
  await logged(page, "RESPONSE: (binary, 5 bytes)");
  await page.locator("#binary").uncheck();
  seen.typed = await takeLog(page);
  await page.screenshot({ path: file("2-typed") });

  await page.locator("details summary").click();
  await page.locator("#code").fill("4001");
  await page.locator("#reason").fill("as I wish");
  await page.locator("#close").click();
  await logged(page, "DISCONNECTED");
  seen.closed = await takeLog(page);
  // The button says that it is disabled, and a person may press Enter all the same.
  await page.locator("#message").fill("to nobody");
  await page.locator("#message").press("Enter");
  seen.unsent = await takeLog(page);
  await page.screenshot({ path: file("3-closed") });

  await page.locator("#clear").click();
  seen.cleared = await takeLog(page);
  await page.locator("#path").fill("/backend");
  await page.locator("#connect").click();
  await logged(page, "CONNECTED");
  await write(page, "x".repeat(100_000));
  await logged(page, "(100000 characters)", 2);
  await write(page, "close 4321 the backend's wish");
  await logged(page, "DISCONNECTED");
  seen.backend = (await takeLog(page)).map(line => line.replace(/x{100,}/, "x"));
  await page.screenshot({ path: file("4-backend") });

  // As it looks on a phone, and to somebody who likes it dark.
  await page.locator("#path").fill("/echo");
  await page.locator("#connect").click();
  await logged(page, "CONNECTED", 2);
  await page.setViewportSize({ width: 390, height: 844 });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.screenshot({ path: file("5-phone-dark"), fullPage: true });
  seen.fits = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);

  // The page is left with its connection open.
  await page.goto("about:blank");
  return { ...seen, sockets, complaints };
}

async function write(page, text) {
  await page.locator("#message").fill(text);
  await page.locator("#send").click();
}

/** Waits until so many lines of the page's log have the text. */
function logged(page, text, count = 1) {
  return page.waitForFunction(
    ([text, count]) => [...document.querySelectorAll("#log p")].filter(line => line.textContent.includes(text)).length >= count,
    [text, count],
  );
}

/** The lines of the page's log, without their times, and what the page calls its state. */
async function takeLog(page) {
  return [...(await page.locator("#log p span").allTextContents()), `(${await page.locator("#state").textContent()})`];
}

main(...process.argv.slice(2));
