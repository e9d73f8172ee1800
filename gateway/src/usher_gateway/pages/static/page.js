// Loads the parts of a page that change again. Everything works without this file.
"use strict";

// Loads nothing while a key put the focus into a part, while text is selected, or while the page is hidden.
const isInUse = () => document.querySelector("[data-reloads] :focus-visible") || !getSelection().isCollapsed;

const refresh = async () => {
  try {
    const answer = isInUse() || document.hidden ? null : await fetch(location.href);
    const page = answer && new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of page && !isInUse() ? document.querySelectorAll("[data-reloads]") : []) {
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
