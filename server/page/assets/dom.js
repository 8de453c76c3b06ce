// Elements, figures and dialogs. Text is only ever set as text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

// h("td.number", {title: "…", onclick: f}, child, …): strings become text nodes.
export function h(name, ...rest) {
  return build(document.createElement.bind(document), name, rest);
}

export function svg(name, ...rest) {
  return build((tag) => document.createElementNS(SVG, tag), name, rest);
}

function build(create, name, rest) {
  const [tag, ...classes] = name.split(".");
  const element = create(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  const plain = rest[0] && typeof rest[0] === "object" && !rest[0].nodeType && !Array.isArray(rest[0]);
  const attributes = plain ? rest.shift() : {};
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...rest.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let last = 0;

// A control under its label. `hint` is read with it.
export function field(label, control, hint) {
  const id = `f${++last}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}h`);
  return h("div.field", h("label", { for: id }, label), control, hint && h("p.hint", { id: `${id}h` }, hint));
}

export function select(options, attributes = {}) {
  return h("select", attributes, options.map(([value, text]) => h("option", { value }, text)));
}

export function table(caption, columns, rows, attributes = {}) {
  const head = columns.map(([title, kind]) => h(`th${kind ? "." + kind : ""}`, { scope: "col" }, title));
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": caption },
    h("table", attributes, h("caption.hidden", caption), h("thead", h("tr", head)), h("tbody", rows)));
}

export function note(text, kind = "") {
  return h(`p.note${kind && "." + kind}`, { role: kind === "bad" ? "alert" : null }, text);
}

// Asks in a dialog; resolves to true if the answer is `verb`.
export function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    const yes = h("button.primary", { value: "yes" }, verb);
    const box = dialog(title, [text].flat().map((line) => h("p", line)),
      h("div.actions", h("button", { autofocus: true }, "Cancel"), yes));
    for (const button of box.querySelectorAll(".actions button")) {
      button.addEventListener("click", () => box.close(button.value));
    }
    box.addEventListener("close", () => resolve(box.returnValue === "yes"));
  });
}

export function dialog(title, ...content) {
  const id = `d${++last}`;
  const box = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), ...content);
  document.body.append(box);
  box.addEventListener("close", () => box.remove());
  box.showModal();
  return box;
}

const NONE = "–";

export const number = (value, digits = 0) =>
  value === null || value === undefined || Number.isNaN(value) ? NONE
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const percent = (value, digits = 0) =>
  value === null || value === undefined ? NONE : `${number(100 * value, digits)}\u00a0%`;
export const signed = (value, digits = 3) =>
  value === null || value === undefined ? NONE : `${value < 0 ? "−" : "+"}${number(Math.abs(value), digits)}`;

export const chance = (p) => (p > 0 && p < 0.001 ? "<0.001" : number(p, 3));

export function money(usd) {
  if (usd === null || usd === undefined) return NONE;
  if (usd === 0) return "$0";
  return usd < 0.0001 ? `$${usd.toPrecision(1)}` : `$${number(usd, usd < 0.1 ? 4 : 2)}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  return value < 10 ? `${number(value, 2)}\u00a0s` : `${number(value, 0)}\u00a0s`;
}

export const speed = (row) => {
  const decoding = row.duration_s - (row.ttft_s ?? 0);
  return row.completion_tokens > 1 && decoding > 0.001 ? row.completion_tokens / decoding : null;
};

const two = (value) => String(value).padStart(2, "0");

export function clock(at) {
  const d = new Date(1000 * at);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

export function moment(at) {
  if (at === null || at === undefined) return NONE;
  const d = new Date(1000 * at);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(at)}`;
}

// Who answered, as a word with a mark; colour is never the only sign.
export function mark(row) {
  const source = row.source ?? row.route;
  const words = { local: "local", cloud: "cloud", fallback: "local, cloud failed" };
  return h(`span.mark.${source}`, words[source] ?? source);
}

// p_offload on a line from 0 to 1, with the threshold as a tick.
export function against(p, threshold) {
  if (p === null || p === undefined) return h("span.quiet", NONE);
  const text = `p_offload ${number(p, 3)}` + (threshold === null || threshold === undefined ? ", no threshold yet" : `, threshold ${number(threshold, 3)}`);
  const shape = svg("svg.against", { viewBox: "0 0 84 12", width: 84, height: 12, role: "img", "aria-label": text },
    svg("title", text),
    svg("line.axis", { x1: 2, x2: 82, y1: 6, y2: 6 }),
    svg("line.value", { x1: 2, x2: 2 + 80 * p, y1: 6, y2: 6 }));
  if (threshold !== null && threshold !== undefined && threshold >= 0 && threshold <= 1) {
    shape.append(svg("line.tick", { x1: 2 + 80 * threshold, x2: 2 + 80 * threshold, y1: 1, y2: 11 }));
  }
  return h("span.pair", shape, h("span.figure", chance(p)));
}
