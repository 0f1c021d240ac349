//! What the token's file and the token endpoint answer, which may be hostile.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde_json::json;
use wasm_host::{Callout, Headers, Host, Response};

use crate::input::Input;
use crate::sidecar::simple::{self, Answers};
use crate::sidecar::{TOKEN_CLUSTER, unsigned_assertion};

/// What an access token with claims of another tenant begins with: nobody may get it.
pub(crate) const FOREIGN: &str = "e30.eyJ0aWQiOi";

/// The token's file: the same federated token for some minutes.
#[derive(Default)]
pub(crate) struct TokenFile {
    token: String,
    written: Option<SystemTime>,
}

impl TokenFile {
    const KEPT: Duration = Duration::from_secs(600);

    fn read(&mut self, host: &Host) -> String {
        let now = host.wall_clock();
        let age = self.written.and_then(|written| now.duration_since(written).ok());
        if age.is_none_or(|age| age > Self::KEPT) {
            (self.token, self.written) = (unsigned_assertion(host), Some(now));
        }
        self.token.clone()
    }
}

/// Answers a call as it should be.
pub(crate) fn answer_well(file: &mut TokenFile, answers: &mut Answers, host: &Host, call: &Callout) {
    if call.cluster == TOKEN_CLUSTER {
        host.respond(call, Response::new(200, file.read(host)));
    } else {
        answers.answer(host, call);
    }
}

/// Every run of twelve letters and digits of the federated tokens that were sent, without their case.
#[derive(Default)]
pub(crate) struct Assertions {
    pub(crate) tokens: HashSet<String>,
    runs: HashSet<Vec<u8>>,
}

impl Assertions {
    /// Longer than what the filter takes for a piece, so that what it cuts off at a limit is none.
    const RUN: usize = 12;

    pub(crate) fn extend(&mut self, token: &str) {
        if self.tokens.insert(token.to_owned()) {
            self.runs.extend(Self::letters(token.as_bytes()).windows(Self::RUN).map(<[u8]>::to_vec));
        }
    }

    fn letters(text: &[u8]) -> Vec<u8> {
        text.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
    }

    /// The first piece of a federated token in a text.
    pub(crate) fn shown_in(&self, text: &[u8]) -> Option<String> {
        let letters = Self::letters(text);
        let found = letters.windows(Self::RUN).find(|run| self.runs.contains(*run));
        found.map(|run| String::from_utf8_lossy(run).into_owned())
    }
}

/// An answer that may be anything, and is often nearly right.
pub(crate) fn any_response(call: &Callout, input: &mut Input<'_>) -> Response {
    let statuses = [200, 200, 200, 201, 204, 302, 400, 401, 403, 429, 500, 503, 0, 999];
    let status = statuses[input.below(statuses.len())];
    let scope = simple::scope(&call.body);
    let body = match input.below(9) {
        6.. if call.cluster != TOKEN_CLUSTER => hostile_body(&simple::assertion(&call.body), input),
        0 => input.some_bytes(),
        1 => Vec::new(),
        2 => {
            let mut right = simple::token_answer(&scope).to_string().into_bytes();
            for _ in 0..input.below(4) {
                let place = input.below(right.len());
                right[place] = input.byte();
            }
            right
        }
        3 => {
            let mut answer = simple::token_answer(&scope);
            let name = input.pick(&["expires_in", "access_token", "token_type", "refresh_in"]);
            let value = [json!(0), json!(-1), json!("7"), json!(1e300), json!(null), json!(u64::MAX), json!(40)];
            answer[name] = value[input.below(value.len())].clone();
            answer.to_string().into_bytes()
        }
        4 => {
            let codes = [700_213, 700_024, 700_016, 7_000_222, 90_033, 0];
            let code = codes[input.below(codes.len())];
            let text = String::from_utf8_lossy(&input.some_bytes()).into_owned();
            let refusal = json!({
                "error": input.pick(&["invalid_client", "temporarily_unavailable", ""]), "error_codes": [code],
                "error_description": format!("AADSTS{code}: {text}"), "trace_id": text, "correlation_id": 1,
            });
            refusal.to_string().into_bytes()
        }
        _ => vec![b'['; 200 * (1 + input.below(200))],
    };
    let response = Response::new(status, body).header("retry-after", input.some_bytes());
    match input.below(8) {
        0 => Response { headers: Headers::new([(b":status".to_vec(), input.some_bytes())]), ..response },
        1 => Response { headers: Headers::default(), ..response },
        _ => response,
    }
}

/// What a token endpoint says that repeats the federated token, in any form and anywhere, or says too much.
fn hostile_body(assertion: &str, input: &mut Input<'_>) -> Vec<u8> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let length = 8 + input.below(60);
    let separator = input.pick(&[" ", "\n", ".", "\u{200b}", "\u{202e}", " and then ", "|", "\u{2028}"]);
    let pieces: Vec<String> =
        assertion.as_bytes().chunks(length).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
    let echo = match input.below(8) {
        0 => assertion.to_owned(),
        1 => parts[input.below(parts.len())].to_owned(),
        2 => pieces.join(separator),
        3 => assertion.to_uppercase(),
        4 => format!("client_assertion={assertion}&scope=x"),
        5 => assertion.get(..input.below(assertion.len())).unwrap_or_default().to_owned(),
        6 => parts.iter().rev().copied().collect::<Vec<_>>().join(separator),
        _ => format!("{}{assertion}", "x ".repeat(input.below(200) * 60)),
    };
    let odd = [json!(null), json!(7), json!([echo]), json!({"a": echo}), json!(true)];
    let text = match input.below(6) {
        0 => odd[input.below(odd.len())].clone(),
        1 => json!(echo.repeat(1 + input.below(200))),
        2 => json!(format!("AADSTS70021: {echo}\r\nevent=forged {echo}")),
        _ => json!(echo),
    };
    let tenants = [
        json!("11111111-1111-4111-8111-111111111111"),
        json!(7),
        json!(null),
        json!(stack::TENANT_ID.to_owned() + " "),
    ];
    let mut body = match input.below(7) {
        6 => {
            use base64::Engine as _;
            let claims = json!({"tid": tenants[input.below(tenants.len())]}).to_string();
            let padded = ["", "="][input.below(2)];
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            let token = format!("e30.{claims}{padded}.c2ln");
            json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token}).to_string()
        }
        0 => text.to_string(),
        1 => echo,
        2 => json!({"token_type": "Bearer", "expires_in": 3600, "access_token": text}).to_string(),
        3 => json!({"error": text, "trace_id": text, "correlation_id": text}).to_string(),
        _ => json!({
            "error": "invalid_client", "error_description": text, "error_codes": text, "trace_id": text,
            "token_type": text, "access_token": text,
        })
        .to_string(),
    };
    if input.below(16) == 0 {
        body.push_str(&" ".repeat(300 * 1024));
    }
    body.into_bytes()
}

/// Entra's refusal of the federated token.
pub(crate) fn refusal() -> Response {
    let body =
        json!({"error": "invalid_client", "error_description": "AADSTS700213: no match", "error_codes": [700_213]});
    Response::new(401, body.to_string()).header("date", "Thu, 01 Jan 2026 00:00:00 GMT")
}
