// Drives the console in Chromium, as tests/e2e/console.rs tells.
//
// What the browser cannot do, stopping the database and calling tools, is asked of the test on standard output, a word a
// line; it answers with a line on standard input when it is done.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { PATIENCE, accessibleAt, drive, handIn, lines, signIn, start, token, url, watched } from "./browser.mjs";

const ask = async (word) => {
  console.log(word);
  assert.equal((await lines.next()).value, "done");
};
const says = async (page, text) => page.getByRole("status").filter({ hasText: text }).first().waitFor({ timeout: PATIENCE });

async function look() {
  const context = await start({ colorScheme: "light" });
  const faults = watched(context);
  const page = context.pages()[0];
  page.setDefaultTimeout(PATIENCE);

  await handIn(page, "no token at all");
  await page.getByRole("alert").waitFor();
  await signIn(page);
  const cookies = await context.cookies();
  assert.equal(cookies.length, 1);
  assert.deepEqual([cookies[0].httpOnly, cookies[0].sameSite], [true, "Strict"]);
  assert.equal(await page.evaluate(() => document.cookie), "");
  await says(page, "records are delivered to Postgres");

  // Search, and a record's own page.
  await page.getByRole("link", { name: "Trail", exact: true }).click();
  const rows = page.getByRole("table").filter({ hasText: "the newest first" }).locator("tbody tr");
  await rows.first().waitFor();
  // The counts come after the records; each is a link to what it counts.
  const counts = page.locator("#counts");
  await counts.locator(".key").getByText("2 refused").waitFor();
  assert.ok(await counts.locator("svg.bars a").count() >= 1);
  const all = await rows.count();
  await counts.locator(".facets").getByRole("link", { name: "example/add" }).click();
  await page.waitForURL(/tool=example%2Fadd/);
  await rows.first().waitFor();
  assert.equal(await rows.count(), 1);
  await page.getByRole("link", { name: /^Tool: example\/add/ }).click();
  await page.waitForFunction((all) => document.querySelectorAll(".records tbody tr").length >= all, all);
  // Reads of the trail are there for those who ask.
  assert.equal(await page.getByText("gateway/read").count(), 0);
  await page.getByLabel("Show reads of the trail").check();
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByRole("link", { name: "gateway/read" }).first().waitFor();

  await page.getByLabel("Text in the arguments").fill("<script>");
  await page.getByLabel("Status").selectOption("ok");
  await page.getByLabel("Show reads of the trail").uncheck();
  await page.getByRole("button", { name: "Search" }).click();
  await page.waitForURL(/status=ok/);
  await rows.first().waitFor();
  assert.equal(await rows.count(), 1);
  assert.match(await rows.first().innerText(), /<script>alert/);
  await rows.first().getByRole("link", { name: /^Record / }).click();
  await page.getByRole("heading", { name: "Arguments" }).waitFor();
  assert.match(await page.locator("pre").innerText(), /"text": "<script>alert/);
  assert.match(await page.locator(".headline").innerText(), /called example\/echo: .*answered in [0-9.]+ ms\.$/);
  assert.match(await page.locator(".checks").innerText(), /Its contents have the hash that it states/);
  await page.getByRole("link", { name: "Back to the trail" }).click();
  assert.equal(await page.getByLabel("Text in the arguments").inputValue(), "<script>");
  await page.goto(`${url}/console/trail?since=never`);
  assert.match(await page.getByRole("alert").innerText(), /is not a time/);
  await page.goto(`${url}/console/trail?method=tools/call&limit=5`);
  await page.getByRole("link", { name: "Older records" }).click();
  await page.waitForURL(/before=/);

  // New records come by themselves, and all of them can be taken away.
  await page.goto(`${url}/console/trail?method=tools/call`);
  await rows.first().waitFor();
  const before = await rows.count();
  const follow = page.getByRole("button", { name: "Follow" });
  await follow.click();
  await page.getByText("New records are shown as they come").waitFor();
  await ask("call");
  await page.waitForFunction((before) => document.querySelectorAll(".records tr.fresh").length >= 5
    && document.querySelectorAll(".records tbody tr").length >= before + 5, before, { timeout: PATIENCE });
  await follow.click();
  assert.equal(await follow.getAttribute("aria-pressed"), "false");
  const started = page.waitForEvent("download");
  await page.getByRole("link", { name: "JSON lines" }).click();
  const lines = readFileSync(await (await started).path(), "utf8").trim().split("\n");
  assert.ok(lines.length >= before + 5 && lines.every((line) => JSON.parse(line).method === "tools/call"));

  // Who was denied what, and back to the records.
  await page.getByRole("link", { name: "Who was denied what" }).click();
  await page.getByRole("link", { name: /requests: the records$/ }).first().click();
  await page.waitForURL(/status=denied/);
  await rows.first().waitFor();

  // The database stops and starts while one watches; nobody loads the page again.
  await page.goto(`${url}/console`);
  await page.waitForFunction(() => !/^-/.test(document.querySelector(".flow .big").textContent), null, { timeout: PATIENCE });
  await page.evaluate(() => { window.untouched = true; });
  await ask("stop");
  await ask("call");
  await says(page, "Postgres is not accepting records");
  await page.getByText("Last delivery error").waitFor();
  await page.waitForFunction(() => Number(document.querySelectorAll(".flow .big")[2].textContent.split(" ")[0]) >= 5);
  assert.equal(await page.evaluate(() => window.untouched), true);
  // The trail says what it can, in another page.
  const other = await context.newPage();
  other.setDefaultTimeout(PATIENCE);
  await other.goto(`${url}/console/trail?args=meanwhile`);
  assert.match(await other.getByRole("alert").innerText(), /Postgres cannot be read/);
  assert.ok(await other.getByRole("table").filter({ hasText: "from the outbox" }).locator("tbody tr").count() >= 5);
  await other.close();
  await ask("start");
  await says(page, "records are delivered to Postgres");
  assert.equal(await page.evaluate(() => window.untouched), true);
  await page.waitForFunction(() => document.querySelectorAll(".flow .big")[2].textContent.startsWith("0 "));

  // Paused, it stays as it is.
  const pause = page.getByRole("button", { name: "Pause" });
  await pause.click();
  assert.equal(await pause.getAttribute("aria-pressed"), "true");

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  await page.goto(`${url}/console/record?id=1/1`);
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(faults, []);
  await context.close();
}

// With the keys alone: skip link, form, search, a record and back, and the focus is always to be seen.
async function keyboard() {
  const context = await start({ colorScheme: "dark" });
  const faults = watched(context);
  const page = context.pages()[0];
  page.setDefaultTimeout(PATIENCE);
  const focused = () => page.evaluate(() => {
    const at = document.activeElement;
    const style = getComputedStyle(at);
    const name = at.getAttribute("aria-label") ?? (at.id || at.textContent).trim();
    return { name, seen: at.id === "main" || style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
  });
  const tabTo = async (name) => {
    for (let presses = 0; presses < 200; presses += 1) {
      await page.keyboard.press("Tab");
      const at = await focused();
      assert.ok(at.seen, `the focus on ${at.name} cannot be seen`);
      if (at.name === name) return;
    }
    assert.fail(`${name} is not reached by Tab`);
  };
  await page.goto(`${url}/console`);
  await tabTo("token");
  await page.keyboard.type(token);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Pipeline" }).waitFor();
  await tabTo("Trail");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Trail", exact: true }).waitFor();
  await page.locator("#counts .histogram").waitFor();
  await tabTo("Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal((await focused()).name, "main");
  await tabTo("f-args");
  await page.keyboard.type("<script>");
  await page.keyboard.press("Enter");
  const link = page.getByRole("link", { name: /^Record / }).first();
  await link.waitFor();
  await tabTo(await link.getAttribute("aria-label"));
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Arguments" }).waitFor();
  await tabTo("Arguments");
  await page.goto(`${url}/console`);
  await tabTo("Sign out");
  await page.keyboard.press("Enter");
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(faults, []);
  await context.close();
}

// axe-core, past the policy, in a browser of its own, in light and dark, wide and narrow.
async function accessible() {
  const context = await start({ bypassCSP: true });
  const page = context.pages()[0];
  page.setDefaultTimeout(PATIENCE);
  const check = (name) => accessibleAt(page, name);
  await page.goto(`${url}/console`);
  await check("sign-in");
  await signIn(page);
  await page.getByRole("button", { name: "Pause" }).click();
  await check("overview");
  const counted = () => page.locator("#counts .histogram, #counts .error").first().waitFor();
  await page.goto(`${url}/console/trail?limit=20`);
  await counted();
  await check("trail");
  await page.goto(`${url}/console/trail?who=nobody&args=nothing`);
  await counted();
  await check("empty");
  await page.goto(`${url}/console/trail?since=never`);
  await check("fault");
  await page.goto(`${url}/console/trail?view=denied`);
  await check("denied");
  await page.goto(`${url}/console/trail?method=tools/call&limit=12`);
  await page.getByRole("link", { name: /^Record / }).first().click();
  await page.getByRole("heading", { name: "Arguments" }).waitFor();
  await check("record");
  await page.goto(`${url}/console/record?id=1/999999`);
  await check("no-record");
  await ask("stop");
  // The search is recorded, and that record cannot be delivered.
  await page.goto(`${url}/console/trail?args=meanwhile`);
  await counted();
  await check("trail-outage");
  await page.goto(`${url}/console`);
  await says(page, "Postgres is not accepting records");
  await page.getByRole("button", { name: "Pause" }).click();
  await check("overview-outage");
  await ask("start");
  await context.close();
}

await drive(async () => {
  await look();
  await keyboard();
  await accessible();
});
