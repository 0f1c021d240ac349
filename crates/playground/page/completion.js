import { byId, make, prose } from "./dom.js";
import { insert, pointOf, text } from "./editor.js";
import { ask } from "./engine.js";

let completion = null;
let chosen = 0;

/** Connects the list of proposals with the editor. */
export function connectCompletion() {
  const field = byId("text");
  // Before the editor's own listener, which would insert a line break.
  field.addEventListener("keydown", onKey, { capture: true });
  field.addEventListener("input", (event) => {
    const isTyped = /^(insertText|deleteContent)/.test(event.inputType ?? "");
    if (isTyped && !event.isComposing) propose(false);
    else close();
  });
  field.addEventListener("blur", close);
  field.addEventListener("scroll", close);
  field.addEventListener("pointerdown", close);
}

/** Whether proposals are shown. */
export function isProposing() {
  return completion !== null;
}

function onKey(event) {
  if (event.key === " " && event.ctrlKey) {
    event.preventDefault();
    propose(true);
    return;
  }
  if (!completion) return;
  const count = completion.proposals.length;
  const keys = {
    ArrowDown: () => choose((chosen + 1) % count),
    ArrowUp: () => choose((chosen + count - 1) % count),
    Enter: accept,
    Tab: accept,
    Escape: close,
    ArrowLeft: null,
    ArrowRight: null,
    Home: null,
    End: null,
  };
  if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (keys[event.key] === null) {
    close();
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  keys[event.key]();
}

function propose(isAsked) {
  const field = byId("text");
  const cursor = field.selectionStart;
  const found = field.selectionEnd === cursor ? ask("complete", { text: text(), cursor }).ok : null;
  const isFinished = found && found.proposals.length === 1 && found.proposals[0].label === text().slice(found.from, found.to);
  const isWanted = found && found.proposals.length > 0 && (isAsked || (found.from < cursor && !isFinished));
  if (!isWanted) {
    close();
    if (isAsked) byId("proposals-count").textContent = "No proposals";
    return;
  }
  completion = found;
  const options = found.proposals.map((proposal, index) =>
    make(
      "li",
      // The pointer must not take the focus from the text.
      { role: "option", id: `proposal-${index}`, onpointerdown: (event) => (event.preventDefault(), choose(index), accept()) },
      make("span", { class: "label" }, proposal.label),
      make("span", { class: "kind" }, proposal.kind),
      proposal.description && make("span", { class: "description" }, prose(proposal.description)),
    ),
  );
  const list = byId("proposals");
  list.replaceChildren(...options);
  list.hidden = false;
  const point = pointOf(found.from);
  const room = byId("editor").clientWidth - list.offsetWidth;
  list.style.left = `${Math.max(0, Math.min(point.left, room))}px`;
  list.style.top = `${point.top}px`;
  byId("proposals-count").textContent = `${options.length} ${options.length === 1 ? "proposal" : "proposals"}`;
  choose(0);
}

function choose(index) {
  chosen = index;
  for (const [position, option] of [...byId("proposals").children].entries()) {
    option.setAttribute("aria-selected", String(position === index));
  }
  byId("proposals").children[index].scrollIntoView({ block: "nearest" });
  byId("text").setAttribute("aria-activedescendant", `proposal-${index}`);
}

function accept() {
  const { from, to, proposals } = completion;
  const { insert: value, back } = proposals[chosen];
  close();
  insert(from, to, value);
  const cursor = from + value.length - back;
  byId("text").setSelectionRange(cursor, cursor);
  close();
}

function close() {
  completion = null;
  byId("proposals").hidden = true;
  byId("proposals").replaceChildren();
  byId("proposals-count").textContent = "";
  byId("text").removeAttribute("aria-activedescendant");
}
