// Live: each query when its answer has ended, and what the limits have left.

import { events, get } from "./api.js";
import { against, clock, h, mark, money, note, number, percent, seconds, speed, table } from "./dom.js";

const MOST_ROWS = 200;
const HIDE = "edge-agent-hide-questions";
const COLUMNS = [["Time"], ["Query and why"], ["Answered by"], ["p against threshold", "wide"], ["Tokens/s", "number wide"], ["Took", "number wide"], ["Cost", "number wide"]];
const LIMITS = {
  rate: ["Share of queries", "of the latest", (v) => number(v)],
  calls_per_day: ["Calls today", "", (v) => number(v)],
  tokens_per_day: ["Tokens today", "", (v) => number(v)],
  usd_per_day: ["USD today", "", money],
  usd_per_month: ["USD this month", "", money],
};

export async function show(view, { signal }) {
  const gauges = h("section.gauges", { "aria-label": "Limits" });
  const today = h("p.summary", "…");
  const body = h("tbody");
  const rows = table("Latest queries, newest first", COLUMNS.map(([t, k]) => [t, k?.replace(" ", ".")]), []);
  rows.querySelector("tbody").replaceWith(body);
  const empty = note("No query yet. Ask one in Try, or point an app at this address.");
  let held = null;

  const hide = h("button", { "aria-pressed": String(localStorage.getItem(HIDE) === "1") }, "Hide questions");
  hide.addEventListener("click", () => {
    const on = hide.getAttribute("aria-pressed") !== "true";
    hide.setAttribute("aria-pressed", String(on));
    localStorage.setItem(HIDE, on ? "1" : "0");
    body.classList.toggle("veiled", on);
  });
  body.classList.toggle("veiled", hide.getAttribute("aria-pressed") === "true");
  const pause = h("button", { "aria-pressed": "false" }, "Pause");
  pause.addEventListener("click", () => {
    if (held === null) held = [];
    else { const waited = held; held = null; waited.forEach(add); }
    pause.setAttribute("aria-pressed", String(held !== null));
    pause.textContent = "Pause";
  });

  function add(row) {
    if (held !== null) {
      held.push(row);
      pause.textContent = `Pause (${held.length} new)`;
      return;
    }
    empty.remove();
    body.prepend(line(row));
    while (body.childElementCount > MOST_ROWS) body.lastChild.remove();
  }

  const side = h("aside", h("h2", "Limits"), gauges);
  const list = h("section", { "aria-label": "Queries" },
    h("div.bar", today, h("div.actions", hide, pause)), empty, rows);
  view.append(h("div.columns", list, side));
  addEventListener("status", ({ detail }) => summarize(detail), { signal });
  function summarize(found) {
    const day = found.log.today;
    const share = day?.queries ? (day.cloud + day.fallback) / day.queries : null;
    today.textContent = day === null ? "The log cannot be read."
      : `Today ${number(day.queries)} queries, ${number(day.local)} local, ${number(day.cloud)} cloud` +
        `${day.fallback ? `, ${number(day.fallback)} fell back` : ""}${share === null ? "" : ` (${percent(share)} asked)`}. ` +
        `Now ${found.engine.running} running, ${found.engine.waiting} waiting.`;
    gauges.replaceChildren(...limits(found.budget));
  }

  const seen = new Set();
  const first = await get("/v1/log?limit=50", signal);
  for (const row of first.data.reverse()) { seen.add(row.id); add(row); }
  get("/v1/status", signal).then(summarize, () => {});
  follow(signal, (row) => { if (!seen.has(row.id)) { seen.add(row.id); add(row); } });
}

async function follow(signal, add) {
  while (!signal.aborted) {
    try {
      for await (const row of events("/v1/log/events", { signal })) add(row);
    } catch {
      // The line at the top says what is wrong with the daemon.
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
    if (signal.aborted) return;
    const missed = await get("/v1/log?limit=50", signal).catch(() => ({ data: [] }));
    for (const row of missed.data.reverse()) add(row);
  }
}

function line(row) {
  const link = h("a", { href: `#/log/${row.id}` }, clock(row.at));
  const tags = [row.task, row.private && "private"].filter(Boolean).map((tag) => h("span.tag", tag));
  const question = (row.prompt ?? "(no text)").replace(/\s+/g, " ");
  return h("tr", { "data-id": row.id },
    h("td.when", link),
    h("td.query", h("span.question", question), h("span.why", tags, " ", row.why)),
    h("td", mark(row), h("span.narrow.hint", money(row.cost_usd))),
    h("td.wide", against(row.p_offload, row.draft_logprob === null || row.draft_logprob === undefined ? row.threshold : null)),
    h("td.number.wide", number(speed(row), 1)),
    h("td.number.wide", seconds(row.duration_s)),
    h("td.number.wide", money(row.cost_usd)));
}

function limits(budget) {
  if (budget === null) return [note("The ledger cannot be read: no call is made.", "bad")];
  const set = Object.entries(budget).filter(([name, limit]) => LIMITS[name] && limit.limit !== null);
  if (!set.length) return [note("No limit is set: every query may go out.")];
  return set.map(([name, limit]) => gauge(name, limit));
}

function gauge(name, { limit, used, reserved, resets_at }) {
  const [title, , format] = LIMITS[name];
  const end = forecast(name, used, resets_at);
  const text = `${format(used)} of ${format(limit)}`;
  const share = (value) => (limit ? Math.min(1, value / limit) : 1);
  const full = used + reserved >= limit;
  const bar = h("div.gauge", { role: "img", "aria-label": `${title}: ${text} spent, ${format(reserved)} reserved` },
    h("span.spent"), h("span.reserved"));
  bar.firstChild.style.width = `${100 * share(used)}%`;
  bar.lastChild.style.width = `${100 * Math.max(0, Math.min(share(reserved), 1 - share(used)))}%`;
  return h("div.limit", { "data-limit": name },
    h("div.pair", h("span", title), h("strong.figure", text)), bar,
    h("p.hint", `${format(reserved)} reserved. `,
      name === "rate" ? (full ? "Full; it frees up as queries pass by." : "Frees up as queries pass by.")
        : full ? `Full until ${clock(resets_at).slice(0, 5)}.` : end === null ? "" : `At this pace ${format(end)} when it ends${end > limit ? ": the limit will be reached" : ""}.`));
}

// Where the period ends if it goes on as it has gone so far.
function forecast(name, used, resetsAt) {
  if (resetsAt === null) return null;
  const end = new Date(1000 * resetsAt);
  const start = new Date(end);
  if (name.endsWith("month")) start.setMonth(start.getMonth() - 1);
  else start.setDate(start.getDate() - 1);
  const elapsed = Date.now() - start;
  return elapsed > 60_000 ? (used * (end - start)) / elapsed : null;
}
