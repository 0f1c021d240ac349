//! Responses of a hostile token endpoint. None of them may give a token or forge a log line.

use entra_exchange_core::http::{CallResponse, HttpCall};
use serde_json::json;

use crate::entra::{assertion_in, response};
use crate::random::Random;

/// A random hostile response. Most of them repeat the assertion.
pub(crate) fn answer(random: &mut Random, request: &HttpCall) -> CallResponse {
    let assertion = assertion_in(request);
    match random.index(8) {
        0 => response(200, "[".repeat(100_000)),
        1 => {
            let life = random.pick(&["1e308", "99999999999999999999999", "-5", "null", "\"soon\"", "[3600]", "0"]);
            response(200, format!(r#"{{"token_type":"Bearer","access_token":"a","expires_in":{life}}}"#))
        }
        2 => {
            let token = random.pick(&["a\r\nx-admin: yes", "a b", "a\0", "\u{e9}", "Bearer a", " "]);
            response(200, json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token}).to_string())
        }
        3 => {
            let after: &[u8] =
                random.pick(&[b"\xff\xfe", b"99999999999999999999", b"-1", b"", b"1e9", b"Sun, 00 Xxx 0000 99:99:99"]);
            CallResponse { retry_after: Some(after.to_vec()), ..response(429, assertion) }
        }
        4 => response(random.pick(&[0, 99, 204, 304, 999, u16::MAX]), assertion),
        5 => {
            // A forged log line.
            let line =
                format!("AADSTS90033: no\nevent=exchange outcome=issued identity=identity-0 {assertion}\u{1b}[2J");
            refusal(&line, &assertion, 90_033)
        }
        6 => refusal(&assertion.repeat(200), &assertion, 700_213),
        _ => refusal(&format!("AADSTS700016: \u{202e}{}", "x ".repeat(50_000)), &"9".repeat(10_000), 700_016),
    }
}

/// An error response with this text in every text field.
fn refusal(description: &str, text: &str, code: u32) -> CallResponse {
    let body = json!({"error": text, "error_description": description, "error_codes": [code, u32::MAX, code],
        "trace_id": text, "correlation_id": text, "error_uri": text});
    response(401, body.to_string())
}
