import { sentence } from "./check.js";
import { byId, make, values } from "./dom.js";
import { text } from "./editor.js";
import { ask } from "./engine.js";

let targets = [];

/** Connects the settings of manifests, with the defaults of the command. */
export function connectRender() {
  targets = ask("targets").ok ?? [];
  const choice = byId("settings").querySelector("[name=target]");
  choice.replaceChildren(...targets.map(({ name }) => make("option", { selected: name === "envoyfilter" }, name)));
}

/** Makes the manifest that the settings describe. */
export function showManifests() {
  const fields = values(byId("settings"));
  const target = targets.find(({ name }) => name === fields.target);
  for (const label of byId("settings").querySelectorAll("label")) {
    const { istio, objects, for: only } = label.dataset;
    label.hidden =
      (istio !== undefined && !target.is_istios) ||
      (objects !== undefined && !target.has_objects) ||
      (only !== undefined && !only.split(" ").includes(target.name));
    const field = label.querySelector("[name]");
    if (field.name in target) field.placeholder = target[field.name];
  }
  const answer = ask("render", {
    ...fields,
    istio: fields.istio.split(".").map(Number),
    directory: target.has_objects && fields.directory,
    text: text(),
    variables: byId("variables").value,
  });
  if (answer.error) {
    byId("rendered").replaceChildren(make("p", { class: "verdict error" }, sentence(answer.error)));
    return;
  }
  const { files, has_placeholder: hasPlaceholder } = answer.ok;
  byId("rendered").replaceChildren(
    ...(hasPlaceholder ? [make("p", { class: "verdict warning" }, "The digest is a placeholder that no image has: enter image and digest.")] : []),
    ...files.map((file) => manifest(file, files.length === 1)),
  );
}

function manifest({ name, text: content }, isOpen) {
  const copied = make("span", { role: "status", class: "hint" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(content);
      copied.textContent = "Copied.";
    } catch {
      copied.textContent = "The browser does not allow it: select the text and copy it.";
    }
  };
  return make(
    "section",
    { class: "manifest", "aria-label": name },
    make(
      "div",
      { class: "buttons" },
      make("h3", {}, name),
      make("button", { type: "button", onclick: () => download(name, content), "aria-label": `Download ${name}` }, "Download"),
      make("button", { type: "button", onclick: copy, "aria-label": `Copy ${name}` }, "Copy"),
      copied,
    ),
    make("details", { open: isOpen }, make("summary", {}, `${content.split("\n").length - 1} lines`), make("pre", { tabindex: 0, "aria-label": `Content of ${name}` }, content)),
  );
}

function download(name, content) {
  const url = URL.createObjectURL(new Blob([content], { type: "application/yaml" }));
  make("a", { href: url, download: name }).click();
  // The browser has begun to read it.
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
