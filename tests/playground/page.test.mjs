import assert from "node:assert/strict";
import { createSign, generateKeyPairSync } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { folder, launch, open, screenshot, serve, show, write } from "./browser.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let browser;
let server;

before(async () => {
  browser = await launch();
  server = await serve(true);
});

after(async () => {
  await browser.close();
  server.close();
});

/** Runs a test with a page of its own, which must have no errors. */
function onPage(name, run, options = {}) {
  test(name, async () => {
    const opened = await open(browser, server.origin, options);
    try {
      await run(opened.page);
      assert.deepEqual(opened.errors, []);
    } finally {
      await opened.close();
    }
  });
}

const CONFIGURATION = "destinations:\n- azure_service: key_vault\n  names: [payments-kv]\n  tls_clusters: [payments_kv]\n";

onPage("a mistake is listed, marked in the gutter, and selected by its button", async (page) => {
  await write(page, `${CONFIGURATION}entr: {}\n`);
  const finding = page.locator("#findings li", { hasText: "unknown_field" });
  assert.match(await finding.innerText(), /line 5, column 1[\s\S]*Did you mean "entra"\?/);
  assert.match(await page.locator("#gutter div").nth(4).getAttribute("class"), /error/);
  assert.equal(await page.locator("#marks mark.error").innerText(), "entr");
  await finding.getByRole("button").click();
  const selected = await page.evaluate(() => {
    const field = document.activeElement;
    return field.value.slice(field.selectionStart, field.selectionEnd);
  });
  assert.equal(selected, "entr");
  assert.match(await page.locator("#summary").innerText(), /^1 error, /);
});

onPage("a text with characters of several bytes is marked at its place", async (page) => {
  await write(page, `# ü€😀\n${CONFIGURATION}"😀😀": {}\n`);
  assert.equal(await page.locator("#marks mark.error").innerText(), '"😀😀"');
});

onPage("an empty text and a text that is not one are answered", async (page) => {
  await write(page, "");
  assert.match(await page.locator("#summary").innerText(), /error/);
  await write(page, "{{{[[[\"");
  assert.match(await page.locator("#findings").innerText(), /invalid_/);
});

onPage("the environment variables of the proxy are considered", async (page) => {
  await write(page, CONFIGURATION);
  await page.click(".variables summary");
  await page.fill("#variables", "AZURE_TENANT_ID");
  await page.waitForTimeout(250);
  assert.match(await page.locator("#summary").innerText(), /write NAME=VALUE/);
  await page.fill("#variables", "AZURE_TENANT_ID=22222222-2222-4222-8222-222222222222");
  await page.waitForTimeout(250);
  await show(page, "explain");
  await page.fill("[name=url]", "http://payments-kv.vault.azure.net/secrets/db");
  assert.match(await page.locator("#explained").innerText(), /22222222-2222-4222-8222-222222222222/);
});

onPage("a request is explained, with its steps as a picture", async (page) => {
  await write(page, CONFIGURATION);
  await show(page, "explain");
  await page.fill("[name=url]", "http://payments-kv.vault.azure.net/secrets/db");
  assert.match(await page.locator("#explained").innerText(), /forwarded with an access token/);
  const picture = () => page.getByRole("img").nth(1).getAttribute("aria-label");
  assert.match(await picture(), /3 steps: Federated token: .*Access token: entra, 100 ms/);
  await page.fill("#durations [name=entra]", "60000");
  assert.match(await picture(), /no answer in 10 s/);
  await page.click("#panel-explain summary");
  await page.fill("[name=cluster]", "elsewhere");
  assert.match(await page.locator("#explained").innerText(), /403 cluster_not_listed/);
  assert.equal(await page.locator("#steps-section").isVisible(), false);
  await page.fill("[name=headers]", "wrong");
  assert.match(await page.locator("#explained").innerText(), /write NAME: VALUE/);
});

onPage("a token request to IMDS is explained", async (page) => {
  await write(page, `${CONFIGURATION}managed_identity: { imds: {} }\n`);
  await show(page, "explain");
  await page.check("[value=managed_identity]");
  assert.equal(await page.locator("[name=url]").isVisible(), false);
  assert.match(await page.locator("#explained").innerText(), /answers the request with an access token/);
});

onPage("fields and values are proposed, and chosen by the keyboard", async (page) => {
  await write(page, "");
  await page.focus("#text");
  await page.keyboard.type("manag");
  assert.equal(await page.locator("#proposals li").count(), 1);
  assert.equal(await page.locator("#text").getAttribute("aria-activedescendant"), "proposal-0");
  await page.keyboard.press("Enter");
  await page.keyboard.type("imd");
  await page.keyboard.press("Tab");
  assert.equal(await page.inputValue("#text"), "managed_identity:\n  imds:\n    ");
  await page.keyboard.press("Control+Space");
  const proposals = await page.locator("#proposals .label").allInnerTexts();
  assert.ok(proposals.includes("pass"), proposals.join());
  await screenshot(page, "completion");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#proposals").isVisible(), false);
  await page.keyboard.press("Control+z");
  assert.notEqual(await page.inputValue("#text"), "managed_identity:\n  imds:\n    ");
});

onPage("values of a field in JSON are proposed, and chosen by the pointer", async (page) => {
  const text = '{"entra": {"unknown_authority": ""}}';
  await write(page, text);
  await page.evaluate((cursor) => document.getElementById("text").setSelectionRange(cursor, cursor), text.indexOf('""') + 1);
  await page.focus("#text");
  await page.keyboard.press("Control+Space");
  await page.locator("#proposals li", { hasText: "allow" }).click();
  assert.equal(await page.inputValue("#text"), '{"entra": {"unknown_authority": "allow"}}');
});

onPage("a field is explained at the cursor and under the pointer", async (page) => {
  await write(page, CONFIGURATION);
  await page.focus("#text");
  await page.evaluate(() => document.getElementById("text").setSelectionRange(22, 22));
  await page.waitForFunction(() => document.getElementById("field").innerText.includes("azure_service"));
  const box = await page.locator("#text").boundingBox();
  await page.mouse.move(box.x + 60, box.y + 8 + 3 * 20 + 10);
  await page.waitForSelector("#tip:not([hidden])");
  assert.match(await page.locator("#tip").innerText(), /destinations\[\]\.tls_clusters/);
  await screenshot(page, "hover");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#tip").isVisible(), false);
});

onPage("a file is opened", async (page) => {
  await page.setInputFiles("#file", { name: "own.json", mimeType: "application/json", buffer: Buffer.from('{"destinatons": []}') });
  await page.waitForTimeout(300);
  assert.match(await page.locator("#findings").innerText(), /Did you mean "destinations"/);
});

function signed(claims) {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const content = `${part({ alg: "RS256", kid: "k1" })}.${part(claims)}`;
  const signature = createSign("sha256").update(content).sign(privateKey).toString("base64url");
  const key = { ...publicKey.export({ format: "jwk" }), kid: "k1", alg: "RS256", use: "sig" };
  return { token: `${content}.${signature}`, signature, jwks: JSON.stringify({ keys: [key] }) };
}

onPage("a token is inspected, compared and verified, and its signature is not shown", async (page) => {
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: "https://oidc.example.com/", sub: "system:serviceaccount:payments:api", aud: "api://AzureADTokenExchange", iat: now, nbf: now, exp: now + 3600 };
  const { token, signature, jwks } = signed(claims);
  await show(page, "inspect");
  await page.fill("[name=token]", token);
  assert.match(await page.locator("#inspected").innerText(), /Entra accepts such a token[\s\S]*in 59m|in 1h/);
  await page.click("#panel-inspect summary");
  await page.fill("[name=jwks]", jwks);
  await page.fill("[name=credentials]", JSON.stringify([{ name: "api", issuer: "https://oidc.example.com", subject: claims.sub, audiences: [claims.aud] }]));
  const shown = await page.locator("#inspected").innerText();
  assert.match(shown, /verified with the key k1/);
  assert.match(shown, /only a trailing slash differs/);
  assert.ok(!shown.includes(signature.slice(0, 20)));
  await page.fill("[name=token]", `${token.slice(0, -20)}${"A".repeat(20)}`);
  assert.match(await page.locator("#inspected").innerText(), /not verified/);
  await page.click("#forget");
  assert.equal(await page.inputValue("[name=token]"), "");
  assert.equal(await page.locator("#inspected").innerText(), "");
  await page.click("#sample");
  assert.match(await page.locator("#inspected").innerText(), /oidc\.example\.com/);
});

onPage("a manifest is made with the settings, and downloaded", async (page) => {
  await page.selectOption("#example", { index: 0 });
  await page.waitForTimeout(250);
  await show(page, "render");
  await page.selectOption("[name=target]", "wasmplugin");
  await page.fill("[name=namespace]", "orders");
  await page.check("[name=directory]");
  assert.equal(await page.locator(".manifest").count(), 5);
  assert.match(await page.locator("#rendered").innerText(), /placeholder/);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Download wasmplugin-entra-exchange.yaml" }).click(),
  ]);
  assert.equal(download.suggestedFilename(), "wasmplugin-entra-exchange.yaml");
  assert.match(await readFile(await download.path(), "utf8"), /kind: WasmPlugin[\s\S]*namespace: orders/);
  await page.fill("[name=namespace]", "a: b");
  assert.match(await page.locator("#rendered").innerText(), /"a: b" is not a valid namespace/i);
});

onPage("every example is in order except the one with mistakes", async (page) => {
  const names = await page.locator("#example option").allInnerTexts();
  for (const name of names) {
    await page.selectOption("#example", { label: name });
    await page.waitForTimeout(250);
    const hasErrors = (await page.locator("#findings li.error").count()) > 0;
    assert.equal(hasErrors, name.includes("mistakes"), name);
  }
});

onPage("everything is reached by the keyboard", async (page) => {
  await page.focus("#tab-check");
  for (const name of ["explain", "inspect", "render", "check"]) {
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.locator(`#tab-${name}`).getAttribute("aria-selected"), "true");
    assert.equal(await page.locator(`#panel-${name}`).isVisible(), true);
  }
  // The editor does not hold the focus.
  await page.focus("#text");
  await page.keyboard.press("Tab");
  assert.notEqual(await page.evaluate(() => document.activeElement.id), "text");
});

test("the page works from a file", async () => {
  const { page, errors, close } = await open(browser, pathToFileURL(`${folder}/index.html`).href);
  await page.waitForFunction(() => document.getElementById("summary").innerText.includes("in 1 configuration"));
  assert.deepEqual(errors, []);
  await close();
});

test("nothing leaves the page: every request fails by its policy", async () => {
  const own = await serve(true);
  const elsewhere = await serve(false);
  after(() => [own, elsewhere].forEach((one) => one.close()));
  const { page, close } = await open(browser, own.origin);
  const loaded = own.requests.length;
  assert.deepEqual([...own.requests].sort(), ["/", "/playground.js", "/style.css"]);
  const blocked = await page.evaluate(leak, [own.origin, elsewhere.origin]);
  assert.deepEqual(elsewhere.requests, []);
  assert.deepEqual(own.requests.slice(loaded), []);
  const expected = ["connect-src", "default-src", "font-src", "form-action", "frame-src", "img-src", "media-src", "object-src", "script-src-elem", "style-src-elem", "worker-src"];
  for (const directive of expected) assert.ok(blocked.includes(directive), `${directive} is not in ${blocked}`);
  await close();
  // The same attempts reach the server from a page without the policy: they are real ones.
  const context = await browser.newContext({ bypassCSP: true });
  const free = await context.newPage();
  await free.goto(own.origin);
  await free.evaluate(leak, [own.origin, elsewhere.origin]);
  assert.ok(elsewhere.requests.length >= 8, elsewhere.requests.join());
  await context.close();
});

/** Tries every kind of request, and returns the directives of the policy that blocked one. Runs in the page. */
async function leak([own, elsewhere]) {
  const blocked = new Set();
  document.addEventListener("securitypolicyviolation", (event) => blocked.add(event.effectiveDirective));
  const attempt = async (call) => {
    try {
      await call();
    } catch {
      // It is blocked, or nobody answers as expected.
    }
  };
  const add = (tag, properties) => document.body.append(Object.assign(document.createElement(tag), properties));
  for (const origin of [own, elsewhere]) {
    const url = (name) => `${origin}/leak-${name}`;
    await attempt(() => fetch(url("fetch"), { mode: "no-cors" }));
    await attempt(() => navigator.sendBeacon(url("beacon"), "x"));
    await attempt(() => {
      const request = new XMLHttpRequest();
      request.open("GET", url("xhr"), false);
      request.send();
    });
    await attempt(() => new WebSocket(url("socket").replace("http", "ws")));
    await attempt(() => new EventSource(url("events")));
    await attempt(() => new FontFace("leak", `url(${url("font")})`).load());
    await attempt(() => new Worker(url("worker")));
    add("img", { src: url("image") });
    add("video", { src: url("video") });
    add("iframe", { src: url("frame") });
    add("object", { data: url("object") });
    add("a", { href: own, ping: url("ping") });
    const target = Object.assign(document.createElement("iframe"), { name: "target" });
    document.body.append(target);
    const form = Object.assign(document.createElement("form"), { action: url("form"), target: "target" });
    document.body.append(form);
    await attempt(() => form.submit());
  }
  // Scripts and styles may be the page's own files, and no others. The policy lets the browser prefetch what it may load.
  add("link", { rel: "prefetch", href: `${elsewhere}/leak-prefetch` });
  add("script", { src: `${elsewhere}/leak-script` });
  add("script", { textContent: "document.title = 'inline script'" });
  add("link", { rel: "stylesheet", href: `${elsewhere}/leak-style` });
  await new Promise((resolve) => setTimeout(resolve, 700));
  return [...blocked].sort();
}

const SIZES = { wide: { width: 1280, height: 900 }, narrow: { width: 360, height: 740 } };

for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    onPage(
      `axe-core finds no violation: ${colorScheme}, ${size}`,
      async (page) => {
        for (const name of ["check", "explain", "inspect", "render"]) {
          await page.selectOption("#example", { index: name === "check" ? 4 : 0 });
          await page.waitForTimeout(250);
          await show(page, name);
          if (name === "inspect") await page.click("#sample");
          for (const details of await page.locator("details:visible:not([open]) > summary").all()) await details.click();
          await page.mouse.move(0, 0);
          await screenshot(page, `${name}-${colorScheme}-${size}`);
          await page.evaluate(axe);
          const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
          const shown = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n")}`);
          assert.deepEqual(shown, [], `${name}\n${shown.join("\n\n")}`);
          const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(overflow <= 0, `${name} is ${overflow} pixels wider than the window`);
        }
      },
      { colorScheme, viewport },
    );
  }
}
