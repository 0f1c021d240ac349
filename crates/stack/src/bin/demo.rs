//! `make demo`: shows the token exchange in a real Envoy, step by step.

use std::error::Error;
use std::fmt::Display;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use serde_json::Value;
use stack::{LISTED_HOST, NAMESPACE, Options, Request, Response, Stack, TOKEN_LIFETIME, UNLISTED_HOST};

type DemoResult = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all steps. When the demo is interrupted, Envoy stops with it: see `stack::envoy`.
fn run() -> DemoResult {
    say("entra-exchange in a real Envoy. Only Entra is a fake, which verifies every signature.");
    let stack = Stack::start(Options::default())?;
    token_file(&stack)?;
    first_request(&stack)?;
    second_request(&stack)?;
    another_host(&stack)?;
    eight_at_once(&stack)?;
    sdk(&stack)?;
    rejection_and_rotation(&stack)?;
    drop(stack);
    say("\nEverything is stopped. Further reading:");
    say("  README.md              what it is, and the smallest EnvoyFilter");
    say("  docs/architecture.md   how a request is processed, and the invariants");
    say("  envoy/                 the files that an operator deploys; this demo ran envoy/sidecar/envoy.yaml");
    say("  make stack             runs the same stack until Ctrl-C, for your own program");
    Ok(())
}

fn token_file(stack: &Stack) -> DemoResult {
    step(1, "The kubelet projects the workload's federated token into the pod");
    let token = std::fs::read_to_string(stack.token_directory.file())?;
    show(&claims(&token)?, &["iss", "sub", "aud", "exp"]);
    Ok(())
}

fn first_request(stack: &Stack) -> DemoResult {
    step(2, "The app sends GET http://payments-kv.vault.azure.net/secrets/db: no SDK, no secret, no token");
    let (response, time) = timed(|| stack.get(LISTED_HOST, "/secrets/db", &[]));
    fact("latency", format!("{} ms, including one exchange with Entra", time.as_millis()));
    fact("the upstream received", "Authorization: Bearer, a token with these claims");
    show(&received_claims(&response)?, &["aud", "tid", "appid", "exp"]);
    Ok(())
}

fn second_request(stack: &Stack) -> DemoResult {
    step(3, "The app sends a second request");
    let (response, time) = timed(|| stack.get(LISTED_HOST, "/secrets/db", &[]));
    received_claims(&response)?;
    fact("latency", format!("{} µs, with the token from the cache", time.as_micros()));
    exchanges(stack, 1)
}

fn another_host(stack: &Stack) -> DemoResult {
    step(4, "The app sends a request to a host that the configuration does not list");
    let response = stack.get(UNLISTED_HOST, "/", &[]);
    match response.seen_header("authorization") {
        None => fact("the upstream received", "no Authorization header: the request is forwarded unchanged"),
        Some(_) => return Err("a token was sent to a host that is not listed".into()),
    }
    Ok(())
}

fn eight_at_once(stack: &Stack) -> DemoResult {
    step(5, "Eight apps request the same token from the managed-identity endpoint at once; it is not cached yet");
    let request = Request::get(stack::IMDS_HOST, &imds_path("https://storage.azure.com")).header("metadata", "true");
    let responses: Vec<Response> = thread::scope(|scope| {
        let sent: Vec<_> = (0..8).map(|_| scope.spawn(|| stack.send_imds(&request))).collect();
        sent.into_iter()
            .map(|response| response.join().map_err(|_| std::io::Error::other("a request panicked"))?)
            .collect::<Result<_, _>>()
    })?;
    let tokens: Vec<Value> = responses.iter().map(|response| response.json()["access_token"].clone()).collect();
    if !tokens.iter().all(|token| token.is_string() && *token == tokens[0]) {
        return Err("the eight apps did not get the same token".into());
    }
    fact("all eight received", "the same token, for https://storage.azure.com");
    exchanges(stack, 2)
}

fn sdk(stack: &Stack) -> DemoResult {
    step(6, "An unchanged app uses an Azure SDK: azure-identity for Python, ManagedIdentityCredential");
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(python)
        .arg(stack::root().join("tests/sdk/python/azure_identity_driver.py"))
        .arg(r#"{"resource": "https://vault.azure.net"}"#)
        .env("PYTHONPATH", stack::root().join(".tools/python"))
        .env("AZURE_POD_IDENTITY_AUTHORITY_HOST", stack.imds_url())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let response: Value = serde_json::from_slice(&output.stdout)?;
    let token = response["tokens"][0].as_str().ok_or_else(|| response["error"]["message"].to_string())?;
    show(&claims(token)?, &["aud", "appid"]);
    exchanges(stack, 2)
}

fn rejection_and_rotation(stack: &Stack) -> DemoResult {
    step(7, "Entra rejects the exchange: the file now contains the token of another service account");
    let now = SystemTime::now();
    let other = stack.issuer.service_account_token(NAMESPACE, "other", stack::AUDIENCE, now, TOKEN_LIFETIME);
    stack.rotate_token_with(&other)?;
    let (request, response) = rejected(stack)?;
    fact("status", response.status);
    fact("the app receives", response.json()["error_description"].as_str().unwrap_or_default());

    step(8, "The kubelet rotates in the correct token; nothing is restarted");
    stack.rotate_token()?;
    let (started, mut response) = (Instant::now(), response);
    while response.status != 200 && started.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_secs(1));
        response = stack.send_imds(&request)?;
    }
    if response.status != 200 {
        return Err("the rotated token was not used".into());
    }
    fact("the same request", format!("succeeds {} s later, at the next retry", started.elapsed().as_secs()));
    Ok(())
}

/// Requests tokens that are not cached until Entra rejects an exchange. Envoy reads a new file within about 0.3 s, and later on a busy
/// machine.
fn rejected(stack: &Stack) -> Result<(Request, Response), Box<dyn Error>> {
    for attempt in 1..=8 {
        thread::sleep(Duration::from_millis(500) * attempt);
        let resource = format!("https://service-{attempt}.example");
        stack.directory().register_resource(&resource);
        let request = Request::get(stack::IMDS_HOST, &imds_path(&resource)).header("metadata", "true");
        let response = stack.send_imds(&request)?;
        if response.status == 400 {
            return Ok((request, response));
        }
    }
    Err("Entra did not reject the exchange".into())
}

fn imds_path(resource: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}")
}

fn exchanges(stack: &Stack, expected: u64) -> DemoResult {
    let count = stack.directory().stats().token_requests;
    fact("exchanges so far", count);
    if count == expected { Ok(()) } else { Err(format!("expected {expected} exchanges").into()) }
}

/// Returns the claims of the token that the upstream received.
fn received_claims(response: &Response) -> Result<Value, Box<dyn Error>> {
    let header = response.seen_header("authorization");
    let token = header.as_deref().and_then(|value| value.strip_prefix("Bearer "));
    claims(token.ok_or_else(|| format!("the upstream received no token: {}", response.text()))?)
}

fn claims(token: &str) -> Result<Value, Box<dyn Error>> {
    fake_entra::claims(token).ok_or_else(|| "the token is not a valid JWT".into())
}

fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = action();
    (result, started.elapsed())
}

fn show(claims: &Value, names: &[&str]) {
    for name in names {
        match (&claims[*name], *name) {
            (Value::Number(seconds), "exp") => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let left = seconds.as_u64().unwrap_or_default().saturating_sub(now);
                fact(name, format!("in {left} s"));
            }
            (Value::String(text), _) => fact(name, text),
            (other, _) => fact(name, other),
        }
    }
}

fn step(number: u32, title: &str) {
    say(&format!("\n{number}. {title}"));
}

fn fact(name: &str, value: impl Display) {
    say(&format!("   {name:<22} {value}"));
}

fn say(line: &str) {
    println!("{line}");
}
