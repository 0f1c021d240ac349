import { byId } from "./dom.js";

/** Loads the module, whose bytes are in the page, compressed. Nothing is fetched. */
export async function load() {
  const packed = Uint8Array.from(atob(byId("module").textContent.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const module = await WebAssembly.compile(await new Response(stream).arrayBuffer());
  wasm_bindgen.initSync({ module });
}

/** Asks the module. The answer has a field `ok`, or a field `error` with a sentence. */
export function ask(verb, question = {}) {
  try {
    return JSON.parse(wasm_bindgen.ask(verb, JSON.stringify(question)));
  } catch (error) {
    // A trap, which is a fault of the module.
    showFailure(`${verb} failed unexpectedly (${error}). Reload the page, and report the text that caused this.`);
    return { error: "the module failed" };
  }
}

/** Shows a message above everything else. */
export function showFailure(message) {
  byId("failure").textContent = message;
  byId("failure").hidden = false;
}

/** The current time, in seconds since 1970. */
export function now() {
  return Math.floor(Date.now() / 1000);
}
