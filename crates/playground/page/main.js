import { byId, debounced, make } from "./dom.js";
import { ask, load, showFailure } from "./engine.js";
import { connect, forgetMetrics, setText, showField, text } from "./editor.js";
import { connectCompletion } from "./completion.js";
import { connectTip } from "./tip.js";
import { connectTabs } from "./tabs.js";
import { showCheck } from "./check.js";
import { showExplanation } from "./explain.js";
import { sampleToken, showToken } from "./inspect.js";
import { connectRender, showManifests } from "./render.js";

/** The largest file that is opened; the module accepts no more, either. */
const LARGEST = 8 * 1024 * 1024;

const refresh = debounced(() => {
  showCheck();
  showExplanation();
  showManifests();
}, 120);

function connectExamples() {
  const examples = ask("examples").ok ?? [];
  byId("example").replaceChildren(...examples.map(({ name }) => make("option", {}, name)));
  const show = () => {
    const { text: example, url } = examples[byId("example").selectedIndex];
    byId("request").querySelector("[name=url]").value = url;
    setText(example);
  };
  byId("example").addEventListener("change", show);
  show();
}

async function open(event) {
  const [file] = event.target.files;
  if (!file) return;
  if (file.size > LARGEST) showFailure(`${file.name} is larger than 8 MB, so it is not opened.`);
  else setText(await file.text());
  // The same file can be opened again.
  event.target.value = "";
}

function setToken(value) {
  byId("token-fields").querySelector("[name=token]").value = value;
  showToken();
}

async function start() {
  try {
    await load();
  } catch (error) {
    showFailure(`The module cannot be loaded (${error}). The page requires WebAssembly and DecompressionStream: use a current browser.`);
    return;
  }
  connectTabs();
  connectRender();
  connectCompletion();
  connect(refresh);
  connectTip();
  byId("variables").addEventListener("input", refresh);
  byId("file").addEventListener("change", open);
  byId("request").addEventListener("input", showExplanation);
  byId("durations").addEventListener("input", showExplanation);
  byId("settings").addEventListener("input", showManifests);
  byId("token-fields").addEventListener("input", showToken);
  byId("sample").addEventListener("click", () => setToken(sampleToken()));
  byId("forget").addEventListener("click", () => setToken(""));
  addEventListener("resize", forgetMetrics);
  connectExamples();
  showField();
  document.documentElement.dataset.ready = String(text().length > 0);
}

start();
