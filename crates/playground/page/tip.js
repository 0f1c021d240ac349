import { byId, make } from "./dom.js";
import { describe, findingsAt, offsetAt, text } from "./editor.js";
import { isProposing } from "./completion.js";
import { ask } from "./engine.js";

/** Connects the help that is shown at the pointer. By keyboard, "Field at the cursor" and the list of findings say the same. */
export function connectTip() {
  const field = byId("text");
  let timer;
  field.addEventListener("pointermove", (event) => {
    clearTimeout(timer);
    if (event.pointerType === "mouse") timer = setTimeout(() => show(event.clientX, event.clientY), 300);
  });
  for (const name of ["pointerleave", "keydown", "scroll", "pointerdown", "blur"]) {
    field.addEventListener(name, () => {
      clearTimeout(timer);
      byId("tip").hidden = true;
    });
  }
}

function show(x, y) {
  const offset = isProposing() ? null : offsetAt(x, y);
  const help = offset === null ? null : ask("help", { text: text(), cursor: offset }).ok;
  const found = offset === null ? [] : findingsAt(offset);
  const tip = byId("tip");
  tip.hidden = !help && found.length === 0;
  if (tip.hidden) return;
  const findings = found.map((finding) =>
    make("p", { class: finding.severity }, make("strong", {}, `${finding.severity}: `), `${finding.message}. ${finding.remedy}`),
  );
  tip.replaceChildren(...findings, ...(help ? describe(help).filter(Boolean) : []));
  const editor = byId("editor").getBoundingClientRect();
  const left = Math.min(x - editor.left, byId("editor").clientWidth - tip.offsetWidth);
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${y - editor.top + 18}px`;
}
