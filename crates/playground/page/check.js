import { byId, make, prose } from "./dom.js";
import { select, showFindings, text } from "./editor.js";
import { ask, now } from "./engine.js";

/** Checks the text, and lists what is found. */
export function showCheck() {
  const answer = ask("check", { text: text(), variables: byId("variables").value, now: now() });
  const checked = answer.ok ?? { findings: [], errors: 1, warnings: 0 };
  const counts = [plural(checked.errors, "error"), plural(checked.warnings, "warning")].join(", ");
  const accepted = checked.accepted ? `; ${plural(checked.accepted, "warning")} accepted in a comment` : "";
  const isGood = checked.errors + checked.warnings === 0;
  const summary = byId("summary");
  summary.className = `verdict ${checked.errors > 0 ? "error" : checked.warnings > 0 ? "warning" : "good"}`;
  summary.textContent = answer.error
    ? sentence(answer.error)
    : `${isGood ? "In order: " : ""}${counts} in ${plural(checked.configurations, "configuration")} of the filter${accepted}.`;
  byId("badge").textContent = isGood ? "" : String(checked.errors + checked.warnings);
  byId("badge").className = `badge ${checked.errors > 0 ? "error" : "warning"}`;
  byId("findings").replaceChildren(...checked.findings.map(item));
  showFindings(checked.findings);
}

function item(finding) {
  return make(
    "li",
    { class: finding.severity },
    make(
      "button",
      { type: "button", onclick: () => select(finding) },
      make("span", { class: "severity" }, finding.severity),
      make("span", { class: "place" }, `line ${finding.line}, column ${finding.column}`),
      make("span", { class: "code" }, finding.code),
    ),
    make("p", { class: "message" }, finding.path ? make("code", {}, finding.path) : "", finding.path ? ": " : "", finding.message),
    make("p", { class: "remedy" }, prose(finding.remedy)),
  );
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** A message of the module as a sentence. */
export function sentence(message) {
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;
}
