// A person signs in to the console at an OpenID provider in Chromium, as tests/e2e/console_sign_in.rs tells.

import assert from "node:assert/strict";
import { PATIENCE, accessibleAt, drive, lines, start, url, watched } from "./browser.mjs";

const home = url.replace("127.0.0.1", "localhost");

const ask = async (word) => {
  console.log(word);
  assert.equal((await lines.next()).value, "done");
};

// The way in, by the button and whatever the provider asks.
async function signIn(page) {
  await page.goto(`${home}/console`);
  await page.getByRole("link", { name: "Sign in with 127.0.0.1" }).click();
  const arrived = page.getByRole("heading", { name: "Pipeline" });
  const more = page.getByRole("button", { name: "Continue" });
  for (;;) {
    await arrived.or(more).first().waitFor({ timeout: PATIENCE });
    if (await arrived.isVisible()) return;
    await Promise.all([page.waitForNavigation({ timeout: PATIENCE }), more.click()]);
  }
}

async function way() {
  const context = await start({ colorScheme: "light" });
  const faults = watched(context);
  const page = context.pages()[0];
  page.setDefaultTimeout(PATIENCE);
  await signIn(page);
  assert.equal(page.url(), `${home}/console`);
  const cookies = (await context.cookies(`${home}/console`)).filter(({ name }) => name.startsWith("gatepost"));
  assert.deepEqual(cookies.map(({ httpOnly, sameSite }) => [httpOnly, sameSite]), [[true, "Strict"]]);
  const back = (await context.cookies(`${home}/console/callback`)).filter(({ name }) => name.startsWith("gatepost_sign_in"));
  assert.deepEqual(back, []);
  const header = await page.locator("header").innerText();
  assert.match(header, /ann/);
  assert.match(header, /0\.1\.0 [0-9a-f]{8}-[0-9a-f]{4}-/);

  // The charts follow the calls, and say in words what they draw.
  await ask("call");
  const calls = page.getByRole("img", { name: /^Calls, last 30 minutes/ });
  await page.waitForFunction(() => {
    const said = document.getElementById("chart-calls-text")?.textContent ?? "";
    return /ok: now .*to [0-9.]*[1-9]/.test(said) && /refused: .*to [0-9.]*[1-9]/.test(said);
  }, null, { timeout: PATIENCE });
  assert.ok((await calls.boundingBox()).width > 100);
  await page.getByRole("img", { name: /Duration of calls/ }).waitFor();
  await page.waitForFunction(() => /waiting: now [1-9]/.test(document.getElementById("chart-backlog-text").textContent),
    null, { timeout: PATIENCE });

  // An alarm leads to its section of the runbook.
  await page.getByRole("link", { name: "delivery_behind" }).click();
  await page.waitForURL(/docs\/runbook#delivery_behind$/);
  assert.ok(await page.locator("h2#delivery_behind").isVisible());
  await page.getByRole("link", { name: "Help" }).click();
  await page.getByRole("heading", { name: "The console" }).waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  const own = faults.filter((fault) => !/^a request to http:\/\/(localhost|127\.0\.0\.1):/.test(fault));
  assert.deepEqual(own, []);
  await context.close();
}

// axe-core, past the policy, in light and dark, at the widths of a desk, a tablet and a phone.
async function accessible() {
  const context = await start({ bypassCSP: true });
  const page = context.pages()[0];
  page.setDefaultTimeout(PATIENCE);
  const check = (name) => accessibleAt(page, name);
  await page.goto(`${home}/console`);
  await check("form");
  await signIn(page);
  await page.getByRole("button", { name: "Pause" }).click();
  await check("overview");
  await page.goto(`${home}/console/docs/runbook`);
  await check("runbook");
  await context.close();
}

await drive(async () => {
  await way();
  await accessible();
});
