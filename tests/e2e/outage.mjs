// Keeps the console open in Chromium while tests/e2e/outage.rs stops the database. Nobody touches the page.
//
// Says `open` once it is signed in. Each line of the test is a look, as JSON: what the page has to show by itself, and the
// name of a screenshot. `done` is the answer.

import assert from "node:assert/strict";
import { PATIENCE, drive, lines, shot, signIn, start, watched } from "./browser.mjs";

// Whether the page shows what is looked for. Runs in the page.
const shows = ({ sentence, texts, alarms, least, most }) => {
  const big = [...document.querySelectorAll(".flow .big")].map(({ textContent }) => textContent);
  const waiting = Number(big[2].split(" ")[0].replaceAll(",", ""));
  const moving = document.getElementById("moving").textContent;
  const standing = [...document.querySelectorAll("section[aria-labelledby=alarms] tbody th")].map(({ textContent }) => textContent);
  return document.getElementById("sentence").textContent.includes(sentence) && !big[0].startsWith("-")
    && waiting >= least && waiting <= most && texts.every((text) => moving.includes(text))
    && String(standing) === String(alarms);
};

await drive(async () => {
  // As high as the part that moves.
  const context = await start({ colorScheme: "light", viewport: { width: 1280, height: 640 } });
  const faults = watched(context);
  const page = context.pages()[0];
  page.setDefaultTimeout(PATIENCE);
  await signIn(page);
  await page.evaluate(() => { window.untouched = true; });
  console.log("open");
  for await (const line of lines) {
    const look = JSON.parse(line);
    await page.waitForFunction(shows, look).catch(async (error) => {
      throw new Error(`the page does not show ${line} but ${await page.locator("#live").innerText()}`, { cause: error });
    });
    await shot(page, look.name);
    assert.equal(await page.evaluate(() => window.untouched), true);
    console.log("done");
  }
  assert.deepEqual(faults, []);
  await context.close();
});
