import { byId } from "./dom.js";

/** Connects the tabs: arrow keys, Home and End move between them. */
export function connectTabs() {
  const tabs = [...byId("tabs").querySelectorAll("[role=tab]")];
  const show = (index) => {
    for (const [position, tab] of tabs.entries()) {
      const isShown = position === index;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !isShown;
    }
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => show(index));
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      const target = (next + tabs.length) % tabs.length;
      show(target);
      tabs[target].focus();
    });
  }
}
