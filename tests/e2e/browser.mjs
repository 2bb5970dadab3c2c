// What the drivers of Chromium share: the browser itself, and for the console what must not happen in it, and the way
// in. Those of the console are started as `node DRIVER MODULES URL TOKEN SHOTS`, by tests/e2e/browser.rs.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export const [modules, url, token, shots] = process.argv.slice(2);

// A file of the node packages.
export const require = createRequire(join(modules, "package.json"));
const { chromium } = require("playwright-core");

// A loaded machine of two cores takes its time.
export const PATIENCE = 60_000;

// What the test says, a line at a time.
export const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const profile = mkdtempSync(join(tmpdir(), "gatepost-chromium-"));
export const start = ({ args = [], ...options } = {}) =>
  chromium.launchPersistentContext(mkdtempSync(join(profile, "p-")), {
    executablePath: "/usr/bin/chromium",
    headless: true,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", ...args],
    viewport: { width: 1280, height: 900 },
    ...options,
  });

// What must not happen on any page: errors of scripts, of the policy, and requests to anyone else.
export const watched = (context) => {
  const faults = [];
  context.on("weberror", (error) => faults.push(String(error.error())));
  context.on("console", (message) => {
    // The browser reports every answer that is no success, and while the gateway is asked, that is none.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) faults.push(message.text());
  });
  context.on("request", (request) => {
    if (!request.url().startsWith(`${url}/`)) faults.push(`a request to ${request.url()}`);
  });
  context.on("dialog", (dialog) => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  return faults;
};

export const handIn = async (page, words) => {
  await page.goto(`${url}/console`);
  await page.getByLabel("Token").fill(words);
  await page.getByRole("button", { name: "Sign in" }).click();
};

export const signIn = async (page) => {
  await handIn(page, token);
  await page.getByRole("heading", { name: "Pipeline" }).waitFor({ timeout: PATIENCE });
};

export const shot = async (page, name, options) => page.screenshot({ path: join(shots, `${name}.png`), ...options });

// axe-core, which needs a context that bypasses the policy, and the width of the page: in light and dark, at the widths of
// a desk, a tablet and a phone. Leaves a screenshot of each.
export const accessibleAt = async (page, name) => {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1440, 1024, 390]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(overflow <= 0, `${name} at ${width} is ${overflow} px too wide`);
      await page.evaluate(readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
      const told = grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
      assert.deepEqual(told, [], `${name}, ${colorScheme}, ${width}`);
      await shot(page, `${name}-${colorScheme}-${width}`, { fullPage: true });
    }
  }
};

// Does `work`, and ends the process: every fault ends it with its stack and a code.
export const drive = async (work) => {
  try {
    await work();
  } finally {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
  process.exit(0);
};
