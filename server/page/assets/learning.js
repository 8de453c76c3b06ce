// Learning: what runs, the rounds with the gate's verdicts, and which version serves.

import { get, post } from "./api.js";
import { chart } from "./chart.js";
import { confirmed, h, moment, note, number, percent, signed, table } from "./dom.js";

const PHASES = { warm_start: "warm start", dagrpo: "DA-GRPO", hindsight: "hindsight" };

export async function show(view, { signal }) {
  const now = h("section.panel", { "aria-label": "Now" });
  const serving = h("section.panel", { "aria-label": "Serving" });
  const rounds = h("section", h("h2", "Rounds"));
  const list = h("div");
  const detail = h("div", { "aria-live": "polite" });
  const said = h("p.note", { role: "status", hidden: true });
  rounds.append(list, detail);
  view.append(said, h("div.halves", now, serving), rounds);
  let [shown, opened] = ["", null];

  async function act(path, body, done) {
    try {
      await post(path, body);
      say(done);
    } catch (error) { say(error.message, true); }
    refresh();
  }
  function say(text, bad = false) {
    said.textContent = text;
    said.className = bad ? "note bad" : "note";
    said.hidden = false;
  }

  async function refresh() {
    const [training, adapters, status] = await Promise.all([
      get("/v1/training?limit=50", signal), get("/v1/adapters", signal), get("/v1/status", signal)]);
    const seen = JSON.stringify([training, adapters, status.adapter]);
    if (seen === shown || signal.aborted) return;
    shown = seen;
    const focused = document.activeElement?.dataset?.key;
    now.replaceChildren(...running(training, act));
    serving.replaceChildren(...served(status, adapters, act));
    list.replaceChildren(roundsTable(training, adapters, act, openRound));
    if (focused) view.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    if (opened === null && training.rounds.length) openRound(training.rounds.at(-1));
    else if (training.running && opened === training.running.id) openRound(training.running);
  }

  async function openRound(round) {
    opened = round.id;
    const found = await get(`/v1/training/${round.id}/steps`, signal).catch(() => null);
    if (found && opened === round.id) detail.replaceChildren(roundDetail(round, found.data));
  }

  await refresh();
  const timer = setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 3000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function running(training, act) {
  const { running: round } = training;
  if (round === null) {
    const start = button("start", "Start a round", async () => {
      if (await confirmed("Start a round of training?", ["It learns from the log alone and asks no cloud. It takes only what nothing else wants of the processor, and may take a quarter of an hour.", "A version that passes the gate is served at once."], "Start")) {
        act("/v1/training/start", undefined, "A round is starting; its first figures come once the log is read.");
      }
    });
    return [h("h2", "No round is running"),
      training.waiting_for && h("p", `The next waits: ${training.waiting_for}.`),
      training.failure && note(`The last one failed: ${training.failure}`, "bad"),
      h("div.actions", start)].filter(Boolean);
  }
  const { step } = round;
  const planned = step?.phase === "dagrpo" ? round.settings?.steps : null;
  const figures = step === null ? [] : [["λ", number(step.dual, 2)], ["rate", percent(step.rate)], ["reward", number(step.reward_local, 2)], ["loss", number(step.loss, 3)]].filter(([, value]) => value !== "–");
  const stop = button("stop", "Stop it", async () => {
    if (await confirmed(`Stop round ${round.id}?`, "It can be started again where it stopped. By itself it goes on after ten minutes.", "Stop")) {
      act("/v1/training/stop", undefined, `Round ${round.id} is stopped.`);
    }
  });
  return [h("h2", `Round ${round.id} is running`),
    h("p", step === null ? "Reading the log and loading." : `${PHASES[step.phase] ?? step.phase}, step ${step.step + 1}${planned ? ` of ${planned}` : ""}`),
    planned ? h("progress", { max: planned, value: step.step + 1, "aria-label": "Steps of this phase" }) : null,
    h("dl.figures", figures.map(([name, value]) => h("div", h("dt", name), h("dd.figure", value)))),
    h("div.actions", stop)].filter(Boolean);
}

function served(status, adapters, act) {
  const { adapter, decision } = status;
  const policy = decision.policy === "cold_start" ? (decision.note ?? "Nothing is trained yet: the cloud is drawn at the rate τ.")
    : `Asks where p_offload passes ${number(decision.threshold, 3)}, at a price of ${number(decision.price, 2)}.`;
  const back = button("rollback", "Roll back", async () => {
    if (await confirmed("Roll back?", `What was served before ${adapter.version} will be served within a second. Answers that run end as they began.`, "Roll back")) {
      act("/v1/adapters/rollback", undefined, "Rolled back; the daemon swaps within a second.");
    }
  });
  return [h("h2", adapter.version === "base" ? "The base model serves" : `Adapter ${adapter.version} serves`),
    h("p", policy),
    h("dl.figures", [["λ", number(adapter.dual, 3)], ["τ", percent(decision.rate_target)], ["versions", number(adapters.data.length)]]
      .map(([name, value]) => h("div", h("dt", name), h("dd.figure", value)))),
    adapter.version === "base" ? null : h("div.actions", back)].filter(Boolean);
}

function roundsTable(training, adapters, act, open) {
  if (!training.rounds.length) return note("No round yet. One starts by itself once enough was asked.");
  const versions = new Map(adapters.data.map((version) => [version.version, version]));
  const rows = training.rounds.toReversed().map((round) => {
    const version = versions.get(round.adapter);
    const { gate } = round;
    return h("tr", { "data-round": round.id },
      h("td", button(`round${round.id}`, `Round ${round.id}`, () => open(round), "link")),
      h("td.wide", moment(round.started_at)),
      h("td", h(`span.state.${round.state}`, round.state)),
      h("td.text", round.reason ?? "–"),
      h("td.number.wide", number(round.items)),
      h("td.number.wide", gate ? `${signed(gate.gain)} (${signed(gate.low)} … ${signed(gate.high)})` : "–"),
      h("td.number.wide", percent(gate?.rate)),
      h("td", version?.active ? h("span.tag", `${version.version} serves`) : version ? promote(version, act) : "–"));
  });
  return table("Rounds of training, newest first", [["Round"], ["Started", "wide"], ["State"], ["The gate says"], ["Queries", "number.wide"], ["Gain (95 %)", "number.wide"], ["Asks", "number.wide"], ["Version"]], rows);
}

function promote(version, act) {
  const rejected = version.status === "rejected";
  return button(`serve${version.version}`, `Serve ${version.version}`, async () => {
    const text = rejected ? [`The gate rejected it: ${version.reason ?? "no reason is kept"}.`, "Serve it all the same?"] : ["The daemon swaps within a second. Answers that run end as they began."];
    if (await confirmed(`Serve ${version.version}?`, text, rejected ? "Serve it all the same" : "Serve")) {
      act("/v1/adapters/activate", { version: version.version, force: rejected }, `${version.version} will be served within a second.`);
    }
  });
}

function roundDetail(round, steps) {
  const kinds = Object.entries(round.gate?.clusters ?? {});
  const rows = kinds.map(([name, k]) => h("tr",
    h("th", { scope: "row" }, name), h("td.number", number(k.queries)),
    ...[["local", percent], ["joint", (v) => number(v, 2)], ["p_offload", (v) => number(v, 2)]].flatMap(([key, format], index) => [
      h(`td.number${index ? ".wide" : ""}`, format(k[`${key}_before`])), h(`td.number${index ? ".wide" : ""}`, format(k[`${key}_after`]))])));
  const of = (key) => steps.filter((step) => step.phase === "dagrpo" && step[key] !== null).map((step) => [step.step + 1, step[key]]);
  const loss = steps.filter((step) => step.phase === "warm_start" && step.loss !== null).map((step) => [step.step + 1, step.loss]);
  const charts = [
    ["Reward", [{ name: "local", points: of("reward_local") }, { name: "cloud", points: of("reward_offload") }], { to: 1 }],
    ["Rate", [{ name: "rate", points: of("rate") }], { to: 1, format: percent }, round.settings?.rate],
    ["Dual variable λ", [{ name: "λ", points: of("dual") }], {}],
    ["Loss of the warm start", [{ name: "loss", points: loss }], {}],
  ].map(([title, series, y, level]) => [title, series.filter((one) => one.points.length), y, level]).filter(([, series]) => series.length)
    .map(([title, series, y, level]) => chart({ title, series, y, level, x: { label: "step", format: (v) => number(v) } }));
  return h("section.detail", h("h2", `Round ${round.id}`),
    kinds.length ? table("Kinds of work on held-out queries, before and after", [["Kind of work"], ["Queries", "number"], ["Local right, before", "number"], ["after", "number"], ["Reward less price, before", "number.wide"], ["after", "number.wide"], ["p_offload, before", "number.wide"], ["after", "number.wide"]], rows)
      : h("p.quiet", "The gate has measured nothing of it."),
    charts.length ? h("div.charts", charts) : null);
}

function button(key, text, onclick, kind = "") {
  return h(`button${kind && "." + kind}`, { type: "button", "data-key": key, onclick }, text);
}
