// Routes, and the line at the top that says how the daemon is.

import { ApiError, get } from "./api.js";
import { note, h, percent } from "./dom.js";

const VIEWS = {
  live: ["Live", () => import("./live.js")],
  try: ["Try", () => import("./try.js")],
  learning: ["Learning", () => import("./learning.js")],
  log: ["Log", () => import("./log.js")],
  "what-if": ["What if", () => import("./whatif.js")],
};
const CLOUD = { open: ", which fails and is left alone", half_open: ", which is tried again" };
const main = document.getElementById("main");
const state = document.getElementById("state");
let leaving = new AbortController();
let shown = null;

async function open() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const [title, load] = VIEWS[name] ?? VIEWS.live;
  const route = VIEWS[name] ? name : "live";
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  document.title = `${title} · edge-agent`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${route}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const view = h("div", { class: `view ${route}` }, h("h1", title));
  main.replaceChildren(view);
  if (shown !== null && shown !== route) main.focus({ preventScroll: true });
  shown = route;
  try {
    const { show } = await load();
    await show(view, { signal, rest: rest.map(decodeURIComponent) });
  } catch (error) {
    if (signal.aborted) return;
    // Away, or still loading its model: the view is opened again once the daemon answers.
    const passing = error instanceof ApiError && [0, 503].includes(error.status);
    if (passing) addEventListener("status", open, { once: true, signal });
    view.append(note(error instanceof ApiError ? error.message : `This view failed: ${error.message}`, "bad"));
  }
}

async function health() {
  let again = 5000;
  try {
    const found = await get("/v1/status");
    const tau = found.decision.rate_target;
    const adapter = found.adapter.version === "base" ? "no adapter yet" : `adapter ${found.adapter.version}`;
    const cloud = found.cloud ? `cloud ${found.cloud.model}${CLOUD[found.cloud.state] ?? ""}` : "no cloud";
    state.textContent = [found.model.name, adapter, cloud, tau === null ? null : `τ ${percent(tau)}`].filter(Boolean).join(" · ");
    state.className = "";
    dispatchEvent(new CustomEvent("status", { detail: found }));
  } catch (error) {
    state.textContent = error.message;
    state.className = "bad";
    again = 2000;
  }
  setTimeout(health, document.hidden ? 6 * again : again);
}

addEventListener("hashchange", open);
open();
health();
