// A browser, servers on loopback, and what the tests do with the page.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { mkdirSync } from "node:fs";
import { extname, join } from "node:path";
import { chromium } from "playwright-core";

const root = join(import.meta.dirname, "../..");
export const folder = join(root, "dist/playground");
const screenshots = join(root, "target/playground/screenshots");
mkdirSync(screenshots, { recursive: true });

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };

/** Serves the page, or nothing; remembers every request. */
export async function serve(isPage) {
  const requests = [];
  const server = createServer(async (request, response) => {
    requests.push(request.url);
    const name = request.url === "/" ? "index.html" : request.url.slice(1);
    try {
      if (!isPage) throw new Error("nothing is here");
      const content = await readFile(join(folder, name));
      response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "text/plain" }).end(content);
    } catch {
      response.writeHead(404, { "access-control-allow-origin": "*" }).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, requests, close: () => (server.closeAllConnections(), server.close()) };
}

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
}

/** Opens the page, and waits until the module has answered. Every error in it fails the test that calls `close`. */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(url);
  await page.waitForSelector("html[data-ready=true]");
  return { page, errors, close: () => context.close() };
}

/** Replaces the text in the editor, and waits until it is checked. */
export async function write(page, text) {
  await page.fill("#text", text);
  await page.waitForTimeout(250);
}

/** Shows a tab. */
export function show(page, name) {
  return page.click(`#tab-${name}`);
}

export function screenshot(page, name) {
  return page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
}
