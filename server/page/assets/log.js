// Log: search and filter, page by page; one decision explained; forget; export.

import { blob, forget, get, post } from "./api.js";
import { chance, confirmed, field, h, mark, moment, money, note, number, seconds, select, speed, table } from "./dom.js";

const PAGE = 100;
const REASONS = ["requested", "private", "cold_start", "threshold", "draft", "explore", "budget", "unreadable", "no_ledger", "no_price", "cloud_down", "no_cloud"];
const COLUMNS = [["Time"], ["Query and why"], ["Answered by"], ["Kind of work", "wide"], ["p", "number.wide"], ["Tokens", "number.wide"], ["Took", "number.wide"], ["Cost", "number.wide"], ["Rating", "wide"]];

export const show = (view, context) => (context.rest[0] ? explained(view, context) : listed(view, context));

async function listed(view, { signal }) {
  const words = h("input", { type: "search", autocomplete: "off", placeholder: 'words, or "a phrase"' });
  const route = select([["", "any"], ["local", "local"], ["cloud", "cloud"]]);
  const reason = select([["", "any"], ...REASONS.map((name) => [name, name.replaceAll("_", " ")])]);
  const task = select([["", "any"]]);
  const since = h("input", { type: "datetime-local" });
  const until = h("input", { type: "datetime-local" });
  const form = h("form.filters", { role: "search", "aria-label": "Log" },
    field("Search", words), field("Route", route), field("Reason", reason), field("Kind of work", task),
    field("From", since), field("To", until),
    h("div.actions", h("button.primary", "Search"), h("button", { type: "reset" }, "Reset")));
  const list = h("div");
  const where = h("p.summary", { role: "status" });
  const newer = h("button", { type: "button" }, "Newer");
  const older = h("button", { type: "button" }, "Older");
  const save = h("button", { type: "button" }, "Export all as JSON lines");
  view.append(form, h("div.bar", where, h("div.actions", newer, older, save)), list);
  const starts = [null]; // `before` of the pages up to this one

  async function load() {
    const given = { words: words.value.trim(), route: route.value, reason: reason.value, task: task.value,
      since: unix(since.value), until: unix(until.value), before: starts.at(-1) };
    const query = new URLSearchParams({ limit: PAGE });
    for (const [name, value] of Object.entries(given)) if (value !== "" && value !== null) query.set(name, value);
    const page = await get(`/v1/log?${query}`, signal);
    const chosen = task.value;
    task.replaceChildren(...[["", "any"], ...page.tasks.map((name) => [name, name])].map(([value, text]) => h("option", { value }, text)));
    task.value = chosen;
    newer.disabled = starts.length === 1;
    older.disabled = page.next === null;
    older.onclick = () => { starts.push(page.next); turn(); };
    const first = (starts.length - 1) * PAGE;
    where.textContent = page.data.length ? `Queries ${number(first + 1)} to ${number(first + page.data.length)}, newest first` : "Nothing found.";
    list.replaceChildren(page.data.length ? table("Logged queries", COLUMNS, page.data.map(line)) : note("No query in the log fits."));
  }
  const failed = (error) => { if (!signal.aborted) list.replaceChildren(note(error.message, "bad")); };
  const turn = () => load().then(() => view.scrollIntoView(), failed);
  const restart = () => { starts.length = 1; load().catch(failed); };
  newer.onclick = () => { starts.pop(); turn(); };
  form.addEventListener("submit", (event) => { event.preventDefault(); restart(); });
  form.addEventListener("reset", () => setTimeout(restart));
  for (const control of [route, reason, task, since, until]) control.addEventListener("change", restart);
  save.onclick = async () => {
    save.disabled = true;
    try {
      const link = h("a", { href: URL.createObjectURL(await blob("/v1/log/export")), download: "edge-agent-log.jsonl" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) { failed(error); }
    save.disabled = false;
  };
  await load();
}

const unix = (text) => (text ? new Date(text).getTime() / 1000 : null);

const RATINGS = new Map([[1, "👍 good"], [-1, "👎 bad"]]);

function line(row) {
  return h("tr", { "data-id": row.id },
    h("td.when", h("a", { href: `#/log/${row.id}` }, moment(row.at))),
    h("td.query", h("span.question", (row.prompt ?? "(no text)").replace(/\s+/g, " ")), h("span.why", row.private ? h("span.tag", "private") : null, " ", row.why)),
    h("td", mark(row), h("span.narrow.hint", money(row.cost_usd))),
    h("td.wide", row.task ?? "–"),
    h("td.number.wide", chance(row.p_offload)),
    h("td.number.wide", `${number(row.prompt_tokens)} + ${number(row.completion_tokens)}`),
    h("td.number.wide", seconds(row.duration_s)),
    h("td.number.wide", money(row.cost_usd)),
    h("td.wide", row.rating === null ? "–" : RATINGS.get(row.rating) ?? number(row.rating, 1)));
}

async function explained(view, { signal, rest: [id] }) {
  const found = await get(`/v1/decisions/${encodeURIComponent(id)}`, signal);
  const { query, decision, response } = found;
  const said = h("p.note", { role: "status", hidden: true });
  const say = (text, bad) => { said.textContent = text; said.className = bad ? "note bad" : "note"; said.hidden = false; };
  const rate = (rating) => async () => {
    try { await post("/v1/feedback", { id: query.id, rating }); say("Kept for training."); } catch (error) { say(error.message, true); }
  };
  const gone = h("button", { type: "button" }, "Forget…");
  gone.addEventListener("click", async () => {
    try {
      const would = await forget(query.id, true);
      const text = ["Its question, its answer and all that was said of it are deleted: rows, search index, free pages and write-ahead log."];
      if (would.adapters.length) text.push(`Trained on a log that held it, and not changed by this: ${would.adapters.join(", ")}.`);
      if (would.unfinished.length) text.push(`Round ${would.unfinished.join(", ")} of training has read it and may still make an adapter.`);
      if (would.copies.length) text.push(`Copies of the log that may hold it: ${would.copies.join(", ")}.`);
      if (!(await confirmed("Forget this query?", text, "Forget"))) return;
      await forget(query.id, false);
      view.replaceChildren(h("h1", "Log"), note("Forgotten."), h("p", h("a", { href: "#/log" }, "Back to the log")));
    } catch (error) { say(error.message, true); }
  });
  const messages = query.messages ?? [{ role: "prompt", content: query.prompt }];
  view.querySelector("h1").textContent = "One decision";
  view.append(
    h("p", h("a", { href: "#/log" }, "Back to the log")), said,
    h("p.verdict", mark({ ...decision, ...response }), " ", found.why),
    h("div.actions",
      h("button", { type: "button", "aria-label": "Good answer", onclick: rate("up") }, "👍 Good"),
      h("button", { type: "button", "aria-label": "Bad answer", onclick: rate("down") }, "👎 Bad"), gone),
    h("div.halves",
      h("section", h("h2", "Conversation"),
        messages.map((message) => block(message.role, text(message.content) || calls(message.tool_calls))),
        response.choices.map((choice) => block(response.source === "cloud" ? `cloud (${response.cloud_model})` : "answer", choice.text || calls(choice.tool_calls))),
        decision.draft ? block("local draft, not served", decision.draft) : null,
        found.audit.map((audit) => block(`audit by ${audit.cloud_model}`, audit.text || audit.error || ""))),
      h("section", h("h2", "Figures"),
        facts([["Asked", moment(query.at)], ["Id", query.id], ["Door", query.door], ["Model", query.model], ["Kind of work", query.task], ["Private", query.private ? "yes" : null], ["Reference", query.reference],
          ["Reason", decision.reason.replaceAll("_", " ")], ["p_offload", fixed(decision.p_offload)], ["Threshold", fixed(decision.threshold)], ["Expected gain", fixed(decision.gain)], ["Price of a call", fixed(decision.price)], ["Propensity", fixed(decision.propensity)], ["Draft log-probability", fixed(decision.draft_logprob)], ["Adapter", decision.adapter], ["λ", fixed(decision.dual)],
          ["Tokens", `${number(response.prompt_tokens)} + ${number(response.completion_tokens)}, ${number(response.cached_tokens)} cached`], ["First token after", seconds(response.ttft_s)], ["Took", seconds(response.duration_s)], ["Tokens/s", number(speed(response), 1)], ["Cost", money(response.cost_usd)], ["Error", response.error]]),
        found.feedback.length ? h("h2", "Feedback") : null,
        found.feedback.map((row) => facts([["At", moment(row.at)], ["Rating", row.rating === null ? null : signedRating(row.rating)], ["Correction", row.correction], ["Reference", row.reference], ["Comment", row.comment]])),
        found.ledger.length ? h("h2", "Cloud calls") : null,
        found.ledger.map((row) => facts([["Model", row.model], ["State", row.state], ["Tokens", number(row.tokens)], ["Cost", row.nano_usd === null ? "not known" : money(row.nano_usd / 1e9)], ["Booked to", row.day]])))));
}

const signedRating = (value) => RATINGS.get(value) ?? number(value, 1);
const fixed = (value) => (value === null || value === undefined ? null : number(value, 4));
const text = (content) => (typeof content === "string" || !content ? content : content.map((part) => part.text ?? `(${part.type})`).join("\n"));
const calls = (given) => (given ? given.map((call) => `${call.function.name}(${call.function.arguments})`).join("\n") : "");
const block = (role, said) => h("div.block", h("h3", role), h("pre.text", said ?? ""));
const facts = (rows) => h("dl.facts", rows.filter(([, value]) => value !== null && value !== undefined && value !== "–")
  .map(([name, value]) => h("div", h("dt", name), h("dd", value))));
