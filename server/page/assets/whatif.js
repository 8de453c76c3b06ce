// What if: the latest queries under another τ.

import { get } from "./api.js";
import { chart } from "./chart.js";
import { field, h, money, note, number, percent, select } from "./dom.js";

export async function show(view, { signal }) {
  const days = select([["1", "day"], ["7", "week"], ["30", "month"]]);
  days.value = "7";
  const slider = h("input", { type: "range", min: "0", max: "100", step: "1" });
  slider.disabled = true; // until there is something to move over
  const result = h("div", { "aria-live": "polite" });
  const charts = h("div.charts");
  view.append(
    h("p", "The queries of the log, as they would have been decided with another τ: the same model and scores, another cap on how many are asked. It is an estimate; nothing is asked of anyone."),
    h("div.row", field("The last", days), field("τ, the largest share of queries asked", slider)), result, charts);
  const status = await get("/v1/status", signal);
  const now = status.decision.rate_target ?? 1;
  slider.value = String(Math.round(100 * now));
  let found = null;

  async function load() {
    found = await get(`/v1/log/whatif?days=${days.value}`, signal);
    draw();
  }

  function draw() {
    const point = found.points[Number(slider.value)];
    slider.setAttribute("aria-valuetext", percent(point.rate));
    if (!found.queries) {
      result.replaceChildren(note("No query in that time."));
      charts.replaceChildren();
      return;
    }
    result.replaceChildren(
      h("dl.figures.large", [["τ", percent(point.rate)], ["cloud calls", number(point.calls)], ["cost", point.cost_usd === null ? "price not known" : money(point.cost_usd)], point.gain === null ? null : ["expected gain", `${number(point.gain, 1)} right answers`]]
        .filter(Boolean)
        .map(([name, value]) => h("div", h("dt", name), h("dd.figure", value)))),
      h("p.quiet", `In fact ${number(found.calls)} of ${number(found.queries)} queries were asked, for ${found.cost_usd === null ? "a cost that is not known" : money(found.cost_usd)}; ` +
        `${number(found.free)} were the policy's to decide. τ is ${percent(now)} now${found.complete ? "" : "; older queries of that time are left out"}.`),
      h("p.quiet", "To make it so: ", h("code", `edge-agent budget set --rate ${point.rate}`)));
    const [pictures, at] = [[], Number(slider.value)];
    const priced = point.cost_usd !== null;
    pictures.push(chart({
      title: priced ? "Cost by τ" : "Calls by τ",
      series: [{ name: priced ? "cost" : "calls", points: found.points.map((p) => [p.rate, priced ? p.cost_usd : p.calls]) }],
      x: { label: "τ", from: 0, to: 1, format: percent }, y: { format: priced ? money : number },
      marker: [point.rate, priced ? point.cost_usd : point.calls],
    }));
    if (point.gain !== null && priced) {
      pictures.push(chart({
        title: "Right answers gained, by cost",
        series: [{ name: "expected gain", points: found.points.map((p) => [p.cost_usd, p.gain]) }],
        x: { label: "USD", from: 0, format: money }, y: {},
        marker: [found.points[at].cost_usd, found.points[at].gain],
      }));
    }
    charts.replaceChildren(...pictures);
  }

  days.addEventListener("change", () => load().catch((error) => result.replaceChildren(note(error.message, "bad"))));
  slider.addEventListener("input", () => found && draw());
  await load();
  slider.disabled = false;
}
