//! The operator's library for a browser page: each function takes a question as JSON and returns the answer as JSON.
//!
//! The page (`page/`) shows the answers. Nothing here reads a clock, a file or the network: the page tells the time.
//! An answer is `{"ok": …}`, or `{"error": "a sentence"}` if the question cannot be answered.

#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod check;
mod examples;
mod explain;
mod help;
mod inspect;
mod lines;
mod outline;
mod render;
mod steps;
#[cfg(target_arch = "wasm32")]
mod wasm;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Answers a question. `verb` is `check`, `explain`, `inspect`, `render`, `targets`, `examples`, `complete` or `help`.
pub fn answer(verb: &str, question: &str) -> String {
    let answer = match verb {
        "check" => of(question, check::answer),
        "explain" => of(question, explain::answer),
        "inspect" => of(question, inspect::answer),
        "render" => of(question, render::answer),
        "targets" => Ok(render::targets()),
        "examples" => Ok(examples::all()),
        "complete" => of(question, |Cursor { text, cursor }| Ok(json!(help::complete(&text, cursor)))),
        "help" => of(question, |Cursor { text, cursor }| Ok(json!(help::help(&text, cursor)))),
        _ => Err(format!("{verb:?} is not a verb of the playground")),
    };
    match answer {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": error }),
    }
    .to_string()
}

/// A place in a text: an offset in UTF-16 units, as JavaScript counts.
#[derive(Debug, Deserialize)]
struct Cursor {
    text: String,
    cursor: usize,
}

/// The name of the text in the editor, in messages.
const NAME: &str = "configuration";

fn of<Q: DeserializeOwned>(question: &str, answer: impl FnOnce(Q) -> Result<Value, String>) -> Result<Value, String> {
    let question = serde_json::from_str(question).map_err(|error| format!("the question cannot be read: {error}"))?;
    answer(question)
}
