// Line charts as SVG: axes with round ticks, at most three series, each with its own dash.

import { h, number, svg } from "./dom.js";

const LEFT = 66, RIGHT = 20, TOP = 10, BOTTOM = 30;

// series: [{name, points: [[x, y], …]}]; x and y: {label, format, from, to}; marker: x of a line.
export function chart({ title, series, x, y, marker, level, width = 420, height = 200 }) {
  const points = series.flatMap((one) => one.points);
  if (!points.length) return h("p.quiet", `${title}: nothing to draw yet.`);
  const xs = range(points.map(([value]) => value), x);
  const ys = range(points.map(([, value]) => value).concat(level ?? []), { from: 0, ...y });
  const px = (value) => LEFT + ((value - xs[0]) / (xs[1] - xs[0])) * (width - LEFT - RIGHT);
  const py = (value) => height - BOTTOM - ((value - ys[0]) / (ys[1] - ys[0])) * (height - TOP - BOTTOM);
  const format = (axis) => axis.format ?? ((value) => number(value, value && Math.abs(value) < 1 ? 2 : 0));
  const picture = svg("svg.chart", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${described(series, format(y))}` });
  for (const value of ticks(ys, 4)) {
    picture.append(svg("line.grid", { x1: LEFT, x2: width - RIGHT, y1: py(value), y2: py(value) }),
      svg("text", { x: LEFT - 6, y: py(value) + 4, "text-anchor": "end" }, format(y)(value)));
  }
  for (const value of ticks(xs, 5)) {
    picture.append(svg("text", { x: px(value), y: height - BOTTOM + 15, "text-anchor": "middle" }, format(x)(value)));
  }
  picture.append(svg("text.label", { x: width - RIGHT, y: height - 2, "text-anchor": "end" }, x.label));
  if (level !== undefined && level !== null) {
    picture.append(svg("line.level", { x1: LEFT, x2: width - RIGHT, y1: py(level), y2: py(level) }));
  }
  series.forEach((one, index) => {
    const path = one.points.map(([a, b], at) => `${at ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join("");
    picture.append(svg(`path.series.s${index}`, { d: path }));
    if (one.points.length === 1) {
      const [[a, b]] = one.points;
      picture.append(svg(`circle.dot.s${index}`, { cx: px(a), cy: py(b), r: 2.5 }));
    }
  });
  if (marker) picture.append(svg("circle.here", { cx: px(marker[0]), cy: py(marker[1]), r: 4.5 }));
  const legend = series.length > 1 && h("span.legend", series.map((one, index) => h(`span.key.s${index}`, one.name)));
  return h("figure", h("figcaption", title, legend), picture);
}

const described = (series, format) => series.map((one) => `${one.name}: from ${format(one.points[0][1])} to ${format(one.points.at(-1)[1])}`).join("; ");

function range(values, { from, to }) {
  const low = from ?? Math.min(...values);
  const high = to ?? Math.max(...values);
  return high > low ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

function ticks([low, high], count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}
