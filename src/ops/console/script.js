// Fetches the overview again every two seconds while the page is visible, and the counts of the trail once.
"use strict";
(() => {
  const EVERY_MS = 2000;
  const TIMEOUT_MS = 10000;
  const live = document.getElementById("live");
  if (!live) return;
  const pause = document.getElementById("pause");
  let paused = false;

  // A screen reader reads each change aloud, so the sentence is only set when it differs.
  const say = (text, condition) => {
    const sentence = document.getElementById("sentence");
    if (sentence.textContent !== text) sentence.textContent = text;
    sentence.dataset.condition = condition;
  };

  const update = async () => {
    if (!paused && !document.hidden) {
      try {
        const signal = AbortSignal.timeout(TIMEOUT_MS);
        const answer = await fetch("/console/live", { cache: "no-store", credentials: "same-origin", signal });
        if (answer.status === 401 || answer.status === 403) {
          say("The session has ended: load the page again to sign in.", "failed");
          return;
        }
        if (!answer.ok) throw new Error(String(answer.status));
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        const sentence = fresh.getElementById("sentence");
        if (!paused) {
          say(sentence.textContent, sentence.dataset.condition);
          document.getElementById("moving").replaceChildren(...fresh.getElementById("moving").childNodes);
        }
      } catch {
        say("The gateway does not answer; this page is out of date.", "failed");
      }
    }
    setTimeout(update, EVERY_MS);
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  setTimeout(update, EVERY_MS);
})();

(async () => {
  const counts = document.getElementById("counts");
  if (!counts) return;
  // Beside the records where there is room, and out of their way where there is none.
  const unfold = () => {
    const facets = counts.querySelector(".facets");
    if (facets) facets.open = matchMedia("(min-width: 80rem)").matches;
  };
  if (counts.dataset.query !== undefined) {
    try {
      const signal = AbortSignal.timeout(30000);
      const address = `/console/trail/counts?${counts.dataset.query}`;
      const answer = await fetch(address, { cache: "no-store", credentials: "same-origin", signal });
      if (!answer.ok) throw new Error(await answer.text());
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      counts.replaceChildren(...fresh.body.childNodes);
    } catch {
      counts.textContent = "Not counted: the gateway does not answer.";
    }
    counts.removeAttribute("aria-busy");
  }
  unfold();
})();

// New records on top of the others, until the button is pressed again.
(() => {
  const ROWS_MAX = 500;
  const button = document.getElementById("follow");
  if (!button) return;
  const told = document.getElementById("following");
  let source;
  const stop = (words) => {
    source?.close();
    source = undefined;
    button.setAttribute("aria-pressed", "false");
    told.textContent = words;
  };
  const show = (rows) => {
    const body = document.querySelector(".records tbody");
    // There was no table: the page has one the next time.
    if (!body) return location.reload();
    const fresh = new DOMParser().parseFromString(`<table><tbody>${rows}</tbody></table>`, "text/html").querySelectorAll("tr");
    for (const row of fresh) row.classList.add("fresh");
    body.prepend(...fresh);
    while (body.rows.length > ROWS_MAX) body.lastElementChild.remove();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    if (source) return stop("");
    source = new EventSource(`/console/trail/live?${button.dataset.query}`);
    source.addEventListener("open", () => { told.textContent = "New records are shown as they come."; });
    source.addEventListener("rows", (event) => show(event.data));
    source.addEventListener("end", (event) => stop(`No longer followed: ${event.data}`));
    source.addEventListener("error", () => stop("No longer followed: the gateway does not answer."));
    button.setAttribute("aria-pressed", "true");
  });
})();
