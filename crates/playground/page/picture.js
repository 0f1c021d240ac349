import { make, makeSvg } from "./dom.js";

/** Height of a step: its name, its bar, and its time below, so that long names have room on a narrow screen. */
const ROW = 54;

/** A picture of the steps of a case: one bar for each step, as long as it takes. */
export function picture(one, index) {
  const total = Math.max(one.total, 1);
  const height = one.steps.length * ROW;
  const described = one.steps.map((step) => `${step.name}, ${length(step)}`).join("; ");
  const drawing = makeSvg(
    "svg",
    { role: "img", width: "100%", height, "aria-label": `${one.steps.length} steps: ${described}` },
    pattern(index),
    one.steps.map((step, row) => bar(step, row, total, index)),
  );
  return make(
    "figure",
    { class: "case" },
    make("figcaption", {}, make("strong", {}, `${one.name}: ${time(one.total)}. `), one.result),
    drawing,
  );
}

function bar(step, row, total, index) {
  const top = row * ROW;
  const start = (100 * step.start) / total;
  // A bar of no length would not be seen.
  const width = Math.max((100 * step.length) / total, 0.6);
  const left = Math.min(start, 100 - width);
  return makeSvg(
    "g",
    { class: step.kind },
    makeSvg("text", { x: 0, y: top + 14 }, step.name),
    makeSvg("text", { x: "100%", y: top + 45, "text-anchor": "end", class: "time" }, length(step)),
    makeSvg("rect", { x: 0, y: top + 20, width: "100%", height: 10, class: "track", rx: 3 }),
    makeSvg("rect", {
      x: `${left}%`, y: top + 20, width: `${width}%`, height: 10, rx: 3,
      class: "bar", fill: step.is_lost ? `url(#lost-${index})` : undefined,
    }),
  );
}

/** Stripes, for a call without an answer. */
function pattern(index) {
  return makeSvg(
    "defs",
    {},
    makeSvg(
      "pattern",
      { id: `lost-${index}`, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      makeSvg("rect", { width: 4, height: 8, class: "stripe" }),
    ),
  );
}

function length(step) {
  if (step.is_lost) return `no answer in ${time(step.timeout)}`;
  return step.timeout === null ? time(step.length) : `${time(step.length)} of at most ${time(step.timeout)}`;
}

function time(milliseconds) {
  return milliseconds < 1000 ? `${milliseconds} ms` : `${(milliseconds / 1000).toFixed(milliseconds % 1000 === 0 ? 0 : 2)} s`;
}
