//! The simulated token endpoint and token file, with faults that depend on the weather.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::http::{CallFailure, CallResponse, CallResult, HttpCall};
use entra_exchange_core::time::Timestamp;
use serde_json::{Value, json};

use crate::hostile;
use crate::random::Random;
use crate::specs::{self, TENANT};

/// The behavior of the token endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weather {
    Fair,
    /// Any kind of response, chosen at random for each request.
    Rough,
    /// The endpoint cannot be reached.
    Down,
    Slow,
    Refusing(u32),
    /// 429, with a `Retry-After` in seconds.
    Throttling(u64),
    /// An error with this AADSTS code, which asks the client to slow down.
    ThrottlingClient(u32),
    /// Malicious responses.
    Hostile,
    /// Tokens with this lifetime and `refresh_in`, in seconds.
    Granting(u64, Option<u64>),
    /// Tokens with a long lifetime. The first unlisted scope gets one that is refreshed after half a minute, and no second one.
    RefusingRefreshes,
    /// Tokens with a lifetime of one second that arrive after two.
    LateAndShort,
}

impl Weather {
    pub(crate) fn any(random: &mut Random) -> Self {
        match random.index(8) {
            0 | 1 => Self::Rough,
            2 => Self::Down,
            3 => Self::Slow,
            4 => Self::Refusing(random.pick(&[700_213, 700_024, 700_016, 90_033])),
            5 => Self::Throttling(random.pick(&[0, 1, 30, 99_999_999])),
            6 => Self::Granting(random.pick(&[1, 2, 20, 60, 120, 700]), None),
            _ => Self::Fair,
        }
    }
}

/// The result of a call, and the time that it takes. The result of a call that cannot be dispatched is immediate.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) after: u64,
    pub(crate) answer: CallResult,
    /// The value of `Retry-After` in seconds, if there is one.
    pub(crate) retry_after: Option<u64>,
    /// The index of the token among all minted ones.
    pub(crate) minted: Option<usize>,
    /// Whether it is a valid federated token.
    pub(crate) is_good: bool,
}

/// A token that the endpoint issued.
pub(crate) struct Minted {
    pub(crate) tenant_id: String,
    pub(crate) client_id: String,
    pub(crate) scope: String,
    /// The lifetime in seconds.
    pub(crate) life: u64,
    /// The time of the request, by the steady clock. The lifetime begins then, or later.
    pub(crate) at: u64,
}

impl Minted {
    /// The lifetime in milliseconds, capped as the broker does.
    pub(crate) fn life_ms(&self) -> u64 {
        self.life.min(7 * 24 * 3600) * 1000
    }

    /// The time before the expiry in which the token is no longer handed out, in milliseconds.
    pub(crate) fn margin_ms(&self) -> u64 {
        (self.life_ms() / 10).min(30_000)
    }
}

/// A text that no log line and no problem may contain: every token in the simulation begins with it.
pub(crate) const SECRET: &str = "eyJ";

fn jwt(claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(&json!({"alg": "RS256"})), part(claims))
}

/// The number of a minted token, from its signature.
pub(crate) fn number_of(token: &str) -> Option<usize> {
    token.rsplit('.').next()?.parse().ok()
}

pub(crate) fn response(status: u16, body: impl Into<Vec<u8>>) -> CallResponse {
    CallResponse { status, retry_after: None, request_id: None, grpc: None, body: body.into(), is_envoys_own: false }
}

fn envoys_own(status: u16) -> CallResult {
    let body = if status == 504 { "upstream request timeout" } else { "upstream connect error" };
    Ok(CallResponse { is_envoys_own: true, ..response(status, body) })
}

/// The content of a file that holds no JWT.
const MALFORMED: &str = "no token \u{fffd} at all";

impl Answered {
    /// Whether it is a file that holds no JWT, which is read a second time.
    pub(crate) fn is_malformed(&self) -> bool {
        self.answer.as_ref().is_ok_and(|response| response.body == MALFORMED.as_bytes())
    }

    /// Whether Entra rejects the federated token.
    pub(crate) fn refuses_credential(&self) -> bool {
        let body = self.answer.as_ref().ok().and_then(|response| serde_json::from_slice::<Value>(&response.body).ok());
        let codes = body.map(|body| body["error_codes"].clone());
        codes.is_some_and(|codes| [json!([700_213]), json!([700_024]), json!([700_016])].contains(&codes))
    }
}

/// The time for which the file holds the same federated token, in seconds.
const ROTATION: u64 = 600;

/// The response of the cluster that serves the token file.
pub(crate) fn assertion(random: &mut Random, faults: u64, now: Timestamp, timeout: u64) -> Answered {
    let claims = |expires: u64| {
        json!({"iss": "https://issuer.example", "sub": "system:serviceaccount:payments:api",
            "aud": "api://AzureADTokenExchange", "exp": expires})
    };
    // The kubelet writes another one now and then.
    let written_at = now.unix_seconds() / ROTATION * ROTATION;
    let good = jwt(&claims(written_at + ROTATION + 3600), "c2ln");
    let after = random.between(0, 10);
    let is_good = !random.chance(faults);
    let answer = if is_good {
        Ok(response(200, good))
    } else {
        match random.index(6) {
            0 => envoys_own(503),
            1 => Ok(response(200, jwt(&claims(now.unix_seconds() - 1), "c2ln"))),
            2 => Ok(response(200, MALFORMED)),
            3 => Ok(response(200, "")),
            4 => {
                return Answered {
                    after: timeout,
                    answer: envoys_own(504),
                    retry_after: None,
                    minted: None,
                    is_good: false,
                };
            }
            _ => Err(CallFailure::NoSuchCluster),
        }
    };
    Answered { after, answer, retry_after: None, minted: None, is_good }
}

/// The response of the service that issues federated tokens, each with another serial number.
pub(crate) fn issued(random: &mut Random, faults: u64, now: Timestamp, serial: u64, timeout: u64) -> Answered {
    let claims = json!({"iss": "https://sts.example", "sub": "payments", "aud": "api://AzureADTokenExchange",
        "jti": serial.to_string(), "exp": now.unix_seconds() + 3600});
    let is_good = !random.chance(faults);
    let slowest = if faults > 0 { 2_000 } else { 100 };
    let (mut after, mut retry_after) = (random.pick(&[1, 20, 100, slowest]), None);
    let answer = if is_good {
        Ok(response(200, json!({"token": jwt(&claims, "c2ln")}).to_string()))
    } else {
        match random.index(5) {
            0 => envoys_own(503),
            1 => Ok(response(400, "no")),
            2 => Ok(response(200, "no token")),
            3 => {
                retry_after = Some(random.pick(&[5, 30, 290]));
                let value = retry_after.map(|seconds| seconds.to_string().into_bytes());
                Ok(CallResponse { retry_after: value, ..response(429, "no") })
            }
            _ => {
                after = timeout;
                envoys_own(504)
            }
        }
    };
    Answered { after, answer, retry_after, minted: None, is_good }
}

/// The response of the token endpoint. A token that it issues is added to `minted`.
pub(crate) fn token(
    random: &mut Random,
    weather: Weather,
    request: &HttpCall,
    (wall, steady): (Timestamp, u64),
    timeout: u64,
    minted: &mut Vec<Minted>,
) -> Answered {
    let mut after = random.between(1, 300);
    let mut retry_after = None;
    let before = minted.len();
    let answer = match weather {
        Weather::Fair => granted(request, 3600, None, false, steady, minted),
        Weather::Granting(life, refresh_in) => granted(request, life, refresh_in, false, steady, minted),
        Weather::RefusingRefreshes if field(request, "scope") != specs::IN_USE => {
            granted(request, 86_400, None, false, steady, minted)
        }
        Weather::RefusingRefreshes if minted.iter().any(|minted| minted.scope == specs::IN_USE) => {
            refused(401, 53_003, request)
        }
        Weather::RefusingRefreshes => granted(request, 86_400, Some(30), false, steady, minted),
        Weather::LateAndShort => {
            after = 2_000;
            granted(request, 1, None, false, steady, minted)
        }
        Weather::Slow => {
            after = random.between(1, 2 * timeout);
            granted(request, 3600, None, false, steady, minted)
        }
        Weather::Down => {
            after = random.pick(&[1, timeout]);
            if random.chance(10) { Err(CallFailure::NoEndpoint) } else { envoys_own(503) }
        }
        Weather::Refusing(code) => refused(401, code, request),
        Weather::ThrottlingClient(code) => refused(400, code, request),
        Weather::Hostile => Ok(hostile::answer(random, request)),
        Weather::Throttling(seconds) => {
            retry_after = Some(seconds);
            Ok(CallResponse {
                retry_after: Some(seconds.to_string().into_bytes()),
                ..response(429, r#"{"error":"x"}"#)
            })
        }
        Weather::Rough => {
            after = random.pick(&[1, 200, timeout - 1, 2 * timeout]);
            match random.index(8) {
                0 => nonsense(random, request),
                1 => refused(400, random.pick(&[700_213, 700_024, 700_016, 90_033, 999]), request),
                2 => Ok(response(random.pick(&[301, 404, 500, 503]), "<html>")),
                3 => envoys_own(503),
                4 => {
                    let then = UNIX_EPOCH + Duration::from_secs(wall.unix_seconds() + random.between(0, 90));
                    Ok(CallResponse {
                        retry_after: Some(httpdate::fmt_http_date(then).into_bytes()),
                        ..response(503, r#"{"error":"temporarily_unavailable"}"#)
                    })
                }
                _ => {
                    let life = random.pick(&[1, 2, 5, 20, 60, 120, 300, 601, 700, 3600, 86_400, u64::MAX]);
                    let refresh_in = random.pick(&[None, None, Some(1), Some(life / 2), Some(u64::MAX)]);
                    granted(request, life, refresh_in, random.chance(30), steady, minted)
                }
            }
        }
    };
    if after >= timeout && answer.is_ok() {
        return Answered { after: timeout, answer: envoys_own(504), retry_after: None, minted: None, is_good: false };
    }
    Answered { after, answer, retry_after, minted: (minted.len() > before).then_some(before), is_good: false }
}

fn granted(
    request: &HttpCall,
    life: u64,
    refresh_in: Option<u64>,
    as_text: bool,
    steady: u64,
    minted: &mut Vec<Minted>,
) -> CallResult {
    let (tenant_id, client_id, scope) = (tenant_of(request), field(request, "client_id"), field(request, "scope"));
    let token = jwt(&json!({"tid": TENANT}), &minted.len().to_string());
    minted.push(Minted { tenant_id, client_id, scope, life, at: steady });
    let mut body = json!({"token_type": "Bearer", "access_token": token});
    let number = |seconds: u64| if as_text { json!(seconds.to_string()) } else { json!(seconds) };
    body["expires_in"] = number(life);
    if let Some(seconds) = refresh_in {
        body["refresh_in"] = number(seconds);
    }
    Ok(response(200, body.to_string()))
}

/// A field of the form in a request.
pub(crate) fn field(request: &HttpCall, name: &str) -> String {
    let mut fields = form_urlencoded::parse(&request.body);
    fields.find(|(field, _)| field == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The tenant that a request names.
pub(crate) fn tenant_of(request: &HttpCall) -> String {
    request.path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned()
}

/// The federated token in a request.
pub(crate) fn assertion_in(request: &HttpCall) -> String {
    field(request, "client_assertion")
}

/// An error response that repeats the assertion, which a real endpoint must not do.
fn refused(status: u16, code: u32, request: &HttpCall) -> CallResult {
    let assertion = assertion_in(request);
    let body = json!({"error": "invalid_client", "error_description": format!("AADSTS{code}: no: {assertion}"),
        "error_codes": [code], "trace_id": "t", "correlation_id": "c"});
    Ok(response(status, body.to_string()))
}

fn nonsense(random: &mut Random, request: &HttpCall) -> CallResult {
    let of_another_tenant = json!({"token_type": "Bearer", "expires_in": 3600,
        "access_token": jwt(&json!({"tid": "22222222-2222-4222-8222-222222222222"}), "0")});
    let body = match random.index(7) {
        0 => String::new(),
        1 => "{\"token_type\":\"Bearer\",\"expires_in\":36".to_owned(),
        2 => "x".repeat(300_000),
        3 => r#"{"token_type":"Bearer","expires_in":3600,"access_token":""}"#.to_owned(),
        4 => r#"{"token_type":"pop","expires_in":3600,"access_token":"a"}"#.to_owned(),
        5 if request.path.contains(TENANT) => of_another_tenant.to_string(),
        _ => r#"{"token_type":"Bearer","expires_in":-1,"access_token":"a"}"#.to_owned(),
    };
    Ok(response(200, body))
}

/// The response of an internal listener to the main thread.
pub(crate) fn no_listener() -> Answered {
    Answered { after: 1, answer: envoys_own(503), retry_after: None, minted: None, is_good: false }
}
