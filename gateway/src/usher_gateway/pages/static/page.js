// Shows new counts, visits and progress without a reload. Everything else works without this file.
"use strict";

const live = document.querySelector("[data-events]");

if (live) {
  const state = document.getElementById("live-state");
  const events = new EventSource(live.dataset.events);

  events.addEventListener("open", () => {
    state.textContent = "Live.";
    state.className = "quiet";
  });

  events.addEventListener("error", () => {
    const isOver = events.readyState === EventSource.CLOSED;
    state.textContent = isOver
      ? "Not live: load the page again for new counts."
      : "The connection is lost. Trying again.";
    state.className = "problem";
  });

  events.addEventListener("counts", (event) => {
    for (const [name, count] of Object.entries(JSON.parse(event.data))) {
      for (const place of document.querySelectorAll(`[data-count="${name}"]`)) {
        place.textContent = count.toLocaleString("en");
      }
    }
  });

  events.addEventListener("visit", (event) => {
    const list = document.getElementById("live-visits");
    if (!list) return;
    const visit = JSON.parse(event.data);
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `/ui/visits/${encodeURIComponent(visit.id)}`;
    link.textContent = `${visit.countedAs} at ${visit.namespace}/${visit.tenant}`;
    const time = document.createElement("time");
    time.dateTime = visit.receivedAt;
    time.textContent = `${visit.receivedAt.slice(11, 19)} UTC `;
    item.append(time, link);
    list.prepend(item);
    while (list.children.length > 10) list.lastElementChild.remove();
  });
}

// The parts of a page that change get their content again, every few seconds, unless a key put the focus there.
const refresh = async () => {
  const isInUse = document.querySelector("[data-reloads] :focus-visible");
  try {
    const answer = isInUse ? null : await fetch(location.href);
    const page = answer && new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of page ? document.querySelectorAll("[data-reloads]") : []) {
      const newer = page.getElementById(part.id);
      if (newer) part.replaceWith(newer);
    }
  } catch {
    // The gateway does not answer now; the next turn asks again.
  }
  refreshLater();
};

const refreshLater = () => {
  const part = document.querySelector("[data-reloads]");
  if (part) setTimeout(refresh, 1000 * Number(part.dataset.reloads));
};

refreshLater();
