import { byId, make, prose } from "./dom.js";
import { ask } from "./engine.js";
import { endOfLine, offsetOf, placeOf } from "./positions.js";

let findings = [];
let metrics;

/** The text in the editor. */
export function text() {
  return byId("text").value;
}

/** Replaces the text in the editor. */
export function setText(value) {
  byId("text").value = value;
  byId("text").setSelectionRange(0, 0);
  byId("text").scrollTo(0, 0);
  byId("text").dispatchEvent(new Event("input", { bubbles: true }));
}

/** Shows findings in the gutter and under the text. */
export function showFindings(list) {
  const value = text();
  findings = list.map((finding) => {
    const start = offsetOf(value, finding.line, finding.column);
    const end = offsetOf(value, finding.end_line, finding.end_column);
    // A finding about several lines is marked in the first one; one about nothing, at a character.
    return { ...finding, start, end: Math.max(Math.min(end, endOfLine(value, start)), start + 1) };
  });
  drawGutter(value);
  drawMarks(value);
}

/** Selects the place of a finding, and scrolls to it. */
export function select(finding) {
  const value = text();
  const start = offsetOf(value, finding.line, finding.column);
  const end = offsetOf(value, finding.end_line, finding.end_column);
  const field = byId("text");
  field.focus();
  field.setSelectionRange(start, Math.min(end, endOfLine(value, start)));
  const place = placeOf(value, start);
  const { height, width } = measure();
  const left = place.column * width;
  const isVisible = left < field.clientWidth - 80;
  field.scrollTo(isVisible ? 0 : left - field.clientWidth / 2, Math.max(0, (place.line - 3) * height));
}

/** Offset below a point of the window, or null if there is no text. */
export function offsetAt(x, y) {
  const field = byId("text");
  const box = field.getBoundingClientRect();
  const { height, width, padding } = measure();
  const line = Math.floor((y - box.top - padding + field.scrollTop) / height);
  const column = Math.floor((x - box.left - padding + field.scrollLeft) / width);
  const lines = text().split("\n");
  if (line < 0 || line >= lines.length || column < 0 || column >= lines[line].length) return null;
  return lines.slice(0, line).reduce((sum, one) => sum + one.length + 1, 0) + column;
}

/** Place of an offset inside the editor, in pixels: below its line. */
export function pointOf(offset) {
  const field = byId("text");
  const { height, width, padding } = measure();
  const place = placeOf(text(), offset);
  const editor = byId("editor").getBoundingClientRect();
  const box = field.getBoundingClientRect();
  return {
    left: box.left - editor.left + padding + place.column * width - field.scrollLeft,
    top: box.top - editor.top + padding + (place.line + 1) * height - field.scrollTop,
  };
}

/** Findings at an offset. */
export function findingsAt(offset) {
  return findings.filter((finding) => finding.start <= offset && offset < finding.end);
}

/** Description of a field, as elements. */
export function describe(help) {
  const line = (name, list) =>
    list.length > 0 && make("p", { class: "hint" }, `${name} `, list.map((one, index) => [index > 0 ? ", " : "", make("code", {}, one)]).flat());
  return [
    make("p", {}, make("code", { class: "name" }, help.path || "configuration"), ` ${help.kind}`),
    make("p", {}, prose(help.description)),
    line("Values:", help.values),
    line("Default:", help.default === null ? [] : [help.default]),
    line("Example:", help.examples),
  ];
}

/** Connects the editor; `changed` is called after each change of the text. */
export function connect(changed) {
  const field = byId("text");
  field.addEventListener("input", () => {
    // The marks of the old text are at wrong places.
    findings = [];
    drawGutter(text());
    drawMarks(text());
    changed();
  });
  field.addEventListener("scroll", follow);
  document.addEventListener("selectionchange", () => {
    if (document.activeElement === field) showField();
  });
  field.addEventListener("keydown", keepIndentation);
  new ResizeObserver(follow).observe(field);
}

/** Shows what the field at the cursor is for. */
export function showField() {
  const answer = ask("help", { text: text(), cursor: byId("text").selectionStart });
  const help = answer.ok;
  byId("field").replaceChildren(
    ...(help ? describe(help).filter(Boolean) : [make("p", { class: "hint" }, "The cursor is not on a field of the configuration.")]),
  );
}

/** Inserts a text in place of a range, so that it can be undone. */
export function insert(from, to, value) {
  const field = byId("text");
  field.focus();
  field.setSelectionRange(from, to);
  // The only way that keeps the history of the text.
  if (!document.execCommand("insertText", false, value)) {
    field.setRangeText(value, from, to, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
}

/** A new line begins in the column of the last one, or deeper after the beginning of an object or a list. */
function keepIndentation(event) {
  const field = byId("text");
  if (event.key !== "Enter" || event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  const before = text().slice(0, field.selectionStart);
  const line = before.slice(before.lastIndexOf("\n") + 1);
  const indentation = line.match(/^ */)[0] + (/[:{[]\s*$/.test(line) ? "  " : "");
  if (indentation === "") return;
  event.preventDefault();
  insert(field.selectionStart, field.selectionEnd, `\n${indentation}`);
}

function drawGutter(value) {
  const severities = new Map();
  for (const finding of findings) {
    if (severities.get(finding.line) !== "error") severities.set(finding.line, finding.severity);
  }
  const lines = value.split("\n").map((_, index) => {
    const severity = severities.get(index + 1);
    return make("div", { class: severity }, `${severity ? (severity === "error" ? "✖ " : "▲ ") : ""}${index + 1}`);
  });
  byId("gutter").replaceChildren(...lines);
  follow();
}

function drawMarks(value) {
  const parts = [];
  let end = 0;
  for (const finding of [...findings].sort((one, other) => one.start - other.start)) {
    if (finding.start < end) continue;
    parts.push(value.slice(end, finding.start), make("mark", { class: finding.severity }, value.slice(finding.start, finding.end) || " "));
    end = finding.end;
  }
  // The last line break is shown only if a character follows it.
  byId("marks").replaceChildren(...parts, `${value.slice(end)}\n `);
  follow();
}

function follow() {
  const field = byId("text");
  byId("marks").scrollTop = field.scrollTop;
  byId("marks").scrollLeft = field.scrollLeft;
  byId("gutter").scrollTop = field.scrollTop;
}

/** Size of a character, and the padding of the text. */
function measure() {
  if (metrics) return metrics;
  const sample = make("span", {}, "m".repeat(100));
  byId("marks").append(sample);
  const width = sample.getBoundingClientRect().width / 100;
  sample.remove();
  const style = getComputedStyle(byId("text"));
  metrics = { width, height: parseFloat(style.lineHeight), padding: parseFloat(style.paddingTop) };
  return metrics;
}

/** Forgets the size of a character, because the font may have changed. */
export function forgetMetrics() {
  metrics = undefined;
}
