// Try: a chat that streams, says who answered and why, and takes what you think of it.

import { events, get, post } from "./api.js";
import { chance, field, h, mark, money, note, number, seconds, select } from "./dom.js";

const SAMPLE_TOOL = `[{"type": "function", "function": {
  "name": "weather",
  "description": "The weather in a city",
  "parameters": {"type": "object",
    "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]`;
const SAMPLE_SCHEMA = `{"type": "object",
  "properties": {"answer": {"type": "string"}}, "required": ["answer"]}`;

// Kept while the page is open: leaving the view does not lose the conversation.
const turns = [];

export async function show(view, { signal }) {
  const route = select([["auto", "The agent decides"], ["local", "Local"], ["cloud", "Cloud"]]);
  const isPrivate = h("input", { type: "checkbox" });
  const task = h("input", { type: "text", maxlength: "200", placeholder: "e.g. sums", autocomplete: "off" });
  const most = h("input", { type: "number", min: "1", max: "8192", value: "256" });
  const tools = h("textarea.code", { rows: "6", spellcheck: "false", placeholder: SAMPLE_TOOL });
  const schema = h("textarea.code", { rows: "6", spellcheck: "false", placeholder: SAMPLE_SCHEMA });
  const question = h("textarea", { rows: "2", placeholder: "Ask something", required: true });
  const submit = h("button.primary", "Ask");
  const problem = h("p.note.bad", { role: "alert", hidden: true });
  const messages = h("div.messages", { role: "log", "aria-label": "Conversation", "aria-live": "polite" });
  const clear = h("button", { type: "button" }, "New conversation");
  isPrivate.addEventListener("change", () => {
    route.disabled = isPrivate.checked;
    if (isPrivate.checked) route.value = "auto";
  });
  clear.addEventListener("click", () => { turns.length = 0; messages.replaceChildren(); question.focus(); });

  const form = h("form.composer",
    field("Question", question),
    problem,
    h("div.row",
      field("Route", route),
      h("div.field.check", h("label", isPrivate, " Private: never leaves this machine")),
      field("Kind of work", task),
      field("Most tokens", most),
      h("div.actions", clear, submit)),
    h("details", h("summary", "Tools and JSON schema"),
      h("div.halves",
        field("Tools", tools, "A JSON list, as in OpenAI's API. A call is shown, nothing is run."),
        field("Schema of the answer", schema, "A JSON schema; the answer is JSON that fits."))));
  view.append(messages, form);
  for (const turn of turns) draw(turn);
  question.focus();

  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    let asked;
    try {
      asked = request();
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      return;
    }
    turns.push({ role: "user", content: question.value });
    draw(turns.at(-1));
    question.value = "";
    await answer(asked);
  });

  function request() {
    const parsed = (area, name) => {
      if (!area.value.trim()) return null;
      try { return JSON.parse(area.value); } catch (error) { throw new Error(`${name} is not JSON: ${error.message}`); }
    };
    const [given, form] = [parsed(tools, "Tools"), parsed(schema, "The schema")];
    return {
      ...(given && { tools: given }),
      ...(form && { response_format: { type: "json_schema", json_schema: { name: "answer", schema: form } } }),
      max_tokens: Number(most.value) || 256,
      edge_agent: {
        route: route.value, private: isPrivate.checked, ...(task.value.trim() && { task: task.value.trim() }),
      },
    };
  }

  async function answer(asked, until = turns.length) {
    const turn = { role: "assistant", content: "", calls: [], info: null, asked, until };
    turns.push(turn);
    const shown = draw(turn);
    const stop = new AbortController();
    const busy = h("button", { type: "button", onclick: () => stop.abort() }, "Stop");
    shown.foot.replaceChildren(h("span.quiet", "Deciding…"), busy);
    submit.disabled = true;
    const began = performance.now();
    try {
      const body = { model: "edge", stream: true, stream_options: { include_usage: true }, messages: history(until), ...asked };
      for await (const chunk of events("/v1/chat/completions", { body, signal: stop.signal })) {
        if (chunk.error) throw new Error(chunk.error.message);
        turn.info = chunk.edge_agent ?? turn.info;
        turn.usage = chunk.usage ?? turn.usage;
        const delta = chunk.choices[0]?.delta;
        if (delta?.content) { turn.first ??= performance.now(); turn.content += delta.content; shown.text.textContent = turn.content; }
        for (const part of delta?.tool_calls ?? []) merge(turn.calls, part);
        if (turn.calls.length) shown.calls.textContent = callsAsText(turn.calls);
        if (turn.info && !turn.said) { turn.said = true; shown.foot.replaceChildren(mark(turn.info), busy); }
      }
    } catch (error) {
      turn.error = error.name === "AbortError" ? "stopped" : error.message;
    }
    turn.took = (performance.now() - began) / 1000;
    turn.decoding = turn.first ? (performance.now() - turn.first) / 1000 : null;
    submit.disabled = false;
    await explain(turn);
    if (!signal.aborted) finish(turn, shown);
  }

  function history(until) {
    return turns.slice(0, until).filter((turn) => turn.role === "user" || (turn.content && !turn.error && !turn.beside))
      .map(({ role, content }) => ({ role, content }));
  }

  function draw(turn) {
    if (turn.role === "user") {
      messages.append(h("div.message.user", h("span.hidden", "You: "), h("div.text", turn.content)));
      return null;
    }
    const shown = { text: h("div.text", turn.content), calls: h("pre.code"), foot: h("div.foot"), said: h("div") };
    messages.append(h("div.message.assistant", h("span.hidden", "Answer: "), shown.text, shown.calls, shown.foot, shown.said));
    if (turn.info) { shown.calls.textContent = callsAsText(turn.calls); finish(turn, shown); }
    return shown;
  }

  function finish(turn, shown) {
    const { info } = turn;
    if (turn.error) shown.said.append(note(turn.error === "stopped" ? "Stopped." : turn.error, turn.error === "stopped" ? "" : "bad"));
    if (!info) { shown.foot.replaceChildren(); return; }
    const rate = turn.usage && turn.decoding > 0.01 ? `${number(turn.usage.completion_tokens / turn.decoding, 1)} tokens/s` : null;
    const figures = [seconds(turn.took), rate, money(info.cost_usd), info.p_offload === null ? null : `p_offload ${chance(info.p_offload)}`];
    const said = h("span.quiet", { role: "status" });
    const rateAs = (word) => async () => {
      try {
        await post("/v1/feedback", { id: info.id, rating: word });
        said.textContent = "Thank you: kept for training.";
      } catch (error) { said.textContent = error.message; }
    };
    const cloud = h("button", { type: "button", disabled: turn.asked.edge_agent.private }, "Ask the cloud instead");
    cloud.addEventListener("click", () => {
      turn.beside = true;
      answer({ ...turn.asked, edge_agent: { ...turn.asked.edge_agent, route: "cloud" } }, turn.until);
    });
    shown.foot.replaceChildren(
      h("p.reason", mark(info), " ", turn.why ?? "", " ", h("span.quiet.figure", figures.filter(Boolean).join(" · "))),
      h("div.actions",
        h("button", { type: "button", "aria-label": "Good answer", onclick: rateAs("up") }, "👍 Good"),
        h("button", { type: "button", "aria-label": "Bad answer", onclick: rateAs("down") }, "👎 Bad"),
        h("button", { type: "button", onclick: () => correct(info.id, shown.said, said) }, "Correct it…"),
        info.source === "cloud" ? null : cloud,
        h("a", { href: `#/log/${info.id}` }, "Explain"),
        said));
  }
}

async function explain(turn) {
  if (!turn.info) return;
  const found = await get(`/v1/decisions/${turn.info.id}`).catch(() => null);
  turn.why = found?.why ?? `${turn.info.route}, because: ${turn.info.reason.replaceAll("_", " ")}; not in the log.`;
}

function correct(id, place, said) {
  const area = h("textarea", { rows: "2", required: true });
  const form = h("form.row", field("What the answer should have been", area), h("div.actions", h("button.primary", "Keep")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await post("/v1/feedback", { id, correction: area.value });
      said.textContent = "The correction is kept for training.";
      form.remove();
    } catch (error) { said.textContent = error.message; }
  });
  place.replaceChildren(form);
  area.focus();
}

function merge(calls, part) {
  const call = (calls[part.index] ??= { name: "", arguments: "" });
  call.name += part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}

const callsAsText = (calls) => calls.map((call) => `${call.name}(${call.arguments})`).join("\n");
