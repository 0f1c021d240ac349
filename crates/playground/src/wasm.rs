//! What the page's JavaScript calls.

#![allow(unreachable_pub, reason = "wasm-bindgen exports public functions only")]

use wasm_bindgen::prelude::wasm_bindgen;

/// Answers a question, see [`crate::answer`].
#[wasm_bindgen]
pub fn ask(verb: &str, question: &str) -> String {
    crate::answer(verb, question)
}
