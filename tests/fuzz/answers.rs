//! What the token's file and the token endpoint answer, which may be hostile.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use wasm_host::{Callout, Headers, Host, Response};

use crate::input::Input;
use crate::setup::{SECRETS, SOURCE_CLUSTER};
use crate::sidecar::simple::{self, Answers};
use crate::sidecar::{TOKEN_CLUSTER, unsigned_assertion};

/// An access token that has no form by which it could be recognized, in answers that grant none: nobody may see it.
pub(crate) const OPAQUE: &str = "0paque-access-t0ken";

/// What an access token with a `tid` that is not our tenant begins with, whatever type that is of: nobody may get it.
pub(crate) const FOREIGN: &str = "e30.eyJ0aWQiO";

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
    } else if call.cluster == SOURCE_CLUSTER {
        let answer = json!({"access_token": unsigned_assertion(host), "token_type": "N_A", "expires_in": 3600});
        host.respond(call, Response::new(200, answer.to_string()));
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

/// The answer of a token service with a federated token that says too much, and the token.
pub(crate) fn hostile_exchange(host: &Host, call: &Callout, input: &mut Input<'_>) -> (Response, String) {
    let echo = echo(call, input);
    let token = hostile_assertion(host, &echo, input);
    let lives = [json!(3600), json!(0), json!(-1), json!("7"), json!(u64::MAX), json!(null)];
    let answer = json!({"access_token": token, "expires_in": lives[input.below(lives.len())].clone()});
    (Response::new(200, answer.to_string()), token)
}

/// A federated token with a claim or an algorithm that says too much, such as this text.
pub(crate) fn hostile_assertion(host: &Host, text: &str, input: &mut Input<'_>) -> String {
    use base64::Engine as _;
    let encode = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let decode = |part: &str| -> Value {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let token = unsigned_assertion(host);
    let parts: Vec<&str> = token.split('.').collect();
    let (mut header, mut claims) = (decode(parts[0]), decode(parts[1]));
    let text = json!(hostile_text(text, input));
    match input.pick(&["alg", "iss", "sub", "aud"]) {
        "alg" => header["alg"] = text,
        claim => claims[claim] = text,
    }
    format!("{}.{}.{}", encode(&header), encode(&claims), parts[2])
}

/// An answer that may be anything, and is often nearly right.
pub(crate) fn any_response(call: &Callout, input: &mut Input<'_>) -> Response {
    let statuses = [200, 200, 200, 201, 204, 302, 400, 400, 401, 403, 429, 500, 503, 0, 999];
    let mut status = statuses[input.below(statuses.len())];
    let scope = simple::scope(&call.body);
    let body = match input.below(12) {
        6 | 7 if call.cluster != TOKEN_CLUSTER => {
            status = if input.once_in(4) { status } else { 200 };
            hostile_grant(call, input)
        }
        8.. if call.cluster != TOKEN_CLUSTER => hostile_body(call, input),
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

/// What a token endpoint says that repeats a token, says too much, or forges a line.
fn hostile_body(call: &Callout, input: &mut Input<'_>) -> Vec<u8> {
    let echo = echo(call, input);
    let text = hostile_text(&echo, input);
    let odd = [json!(null), json!(7), json!([text]), json!({"a": text}), json!(true)];
    let value = if input.once_in(6) { odd[input.below(odd.len())].clone() } else { json!(text) };
    let mut body = match input.below(6) {
        0 => json!({"error": value, "trace_id": value, "correlation_id": value}).to_string(),
        // As long as an error code may be.
        1 => json!({"error": start(&echo, 64)}).to_string(),
        2 => text,
        3 => opaque_answer(input),
        _ => json!({
            "error": "invalid_client", "error_description": value, "error_codes": value, "trace_id": value,
            "token_type": value, "access_token": value,
        })
        .to_string(),
    };
    if input.once_in(16) {
        body.push_str(&" ".repeat(300 * 1024));
    }
    body.into_bytes()
}

/// A token that the endpoint knows, in any form: the federated token of the call, or an access token that it has issued.
fn echo(call: &Callout, input: &mut Input<'_>) -> String {
    let assertion = sent(call, input);
    let parts: Vec<&str> = assertion.split('.').collect();
    let length = 8 + input.below(60);
    let separator = input.pick(&[" ", "\n", ".", "\u{200b}", "\u{202e}", " and then ", "|", "\u{2028}"]);
    let pieces: Vec<String> =
        assertion.as_bytes().chunks(length).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
    match input.below(9) {
        0 => assertion,
        1 => parts[input.below(parts.len())].to_owned(),
        2 => pieces.join(separator),
        3 => assertion.to_uppercase(),
        4 => format!("client_assertion={assertion}&scope=x"),
        5 => start(&assertion, input.below(assertion.len())).to_owned(),
        6 => parts.iter().rev().copied().collect::<Vec<_>>().join(separator),
        7 => format!("{}{assertion}", "x ".repeat(input.below(200) * 60)),
        _ => simple::token_answer(&simple::scope(&call.body))["access_token"].as_str().unwrap_or_default().to_owned(),
    }
}

/// What the endpoint got and nobody else may see.
fn sent(call: &Callout, input: &mut Input<'_>) -> String {
    if call.cluster != SOURCE_CLUSTER {
        return simple::assertion(&call.body);
    }
    match input.below(4) {
        0 => subject_token(&call.body),
        1 => call.headers.text("authorization").unwrap_or_default(),
        2 => SECRETS[0].1.to_owned(),
        _ => SECRETS[1].1.to_owned(),
    }
}

/// The token that a token service is to exchange, or an empty string.
pub(crate) fn subject_token(form: &[u8]) -> String {
    let form = String::from_utf8_lossy(form);
    form.split('&').find_map(|pair| pair.strip_prefix("subject_token=")).unwrap_or_default().to_owned()
}

/// A text around another one that is long, forges a line or a field, or hides characters.
fn hostile_text(text: &str, input: &mut Input<'_>) -> String {
    match input.below(8) {
        0 => vec![text; 1 + input.below(200)].join(" "),
        1 => format!("AADSTS70021: {text}\r\nevent=forged {text}"),
        2 => format!("{}{text}", "No, ".repeat(60 * (1 + input.below(100)))),
        3 | 4 => {
            let hidden = input.pick(&[
                "\u{200b}",
                "\u{202e}",
                "\u{2028}",
                "\u{2066}",
                "\u{7f}",
                "\u{85}",
                "\u{1b}[2J",
                "\0",
                "\u{feff}",
                "\u{ad}",
                "\u{e0041}",
            ]);
            format!("in{hidden}visible {text}")
        }
        5 => format!("outcome=issued{}", start(text, 8)),
        _ => text.to_owned(),
    }
}

/// A token response with the federated token, or with an access token of another tenant or of no tenant that can be read.
fn hostile_grant(call: &Callout, input: &mut Input<'_>) -> Vec<u8> {
    let token = match input.below(4) {
        0 | 1 => foreign_token(input),
        2 => simple::assertion(&call.body),
        _ => {
            let echo = echo(call, input);
            hostile_text(&echo, input)
        }
    };
    json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token}).to_string().into_bytes()
}

fn foreign_token(input: &mut Input<'_>) -> String {
    use base64::Engine as _;
    let tenants = [
        json!("11111111-1111-4111-8111-111111111111"),
        json!(7),
        json!([stack::TENANT_ID]),
        json!(null),
        json!(stack::TENANT_ID.to_owned() + " "),
    ];
    let claims = json!({"tid": tenants[input.below(tenants.len())]}).to_string();
    let padding = input.pick(&["", "="]);
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    format!("e30.{claims}{padding}.c2ln")
}

/// An answer that grants no token, although it has one.
fn opaque_answer(input: &mut Input<'_>) -> String {
    let json = json!({"access_token": OPAQUE, "expires_in": 3600});
    match input.below(9) {
        0 => format!("{json}"),
        1 => format!(" {json}]"),
        2 => format!("[{json}]"),
        3 => format!("access_token={OPAQUE}&expires_in=3600"),
        4 => json!({"message": json.to_string()}).to_string(),
        5 => json!({"message": "denied", "inner": [json]}).to_string(),
        6 => json.to_string().replace("access_token", "acces\\u0073_toke\\u006E"),
        7 => format!("<html><title>access_token={OPAQUE}</title>"),
        _ => format!("\"{OPAQUE}\""),
    }
}

/// The first bytes of a text, as many at most.
fn start(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

/// Entra's refusal of the federated token.
pub(crate) fn refusal() -> Response {
    let body =
        json!({"error": "invalid_client", "error_description": "AADSTS700213: no match", "error_codes": [700_213]});
    Response::new(401, body.to_string()).header("date", "Thu, 01 Jan 2026 00:00:00 GMT")
}
