//! `make demo`: the main job on a real Envoy, in steps that one can read.

use std::error::Error;
use std::fmt::Display;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use serde_json::Value;
use stack::{LISTED_HOST, NAMESPACE, Options, Request, Response, Stack, TOKEN_LIFE, UNLISTED_HOST};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever stops the demo half-way stops Envoy with it: see `stack::envoy`.
fn run() -> Outcome {
    say("entra-exchange in a real Envoy. Only Entra is a fake: it is strict, and it verifies every signature.");
    let stack = Stack::start(Options::default())?;
    token_file(&stack)?;
    first_request(&stack)?;
    second_request(&stack)?;
    another_host(&stack)?;
    eight_at_once(&stack)?;
    sdk(&stack)?;
    refusal_and_rotation(&stack)?;
    drop(stack);
    say("\nAll of it is stopped now. What to read next:");
    say("  README.md              what it is, and the smallest EnvoyFilter");
    say("  docs/architecture.md   the path of a request, and the invariants");
    say("  envoy/                 what an operator deploys; this demo ran envoy/sidecar/envoy.yaml");
    say("  make stack             the same stack, to stay: point your own program at it");
    Ok(())
}

fn token_file(stack: &Stack) -> Outcome {
    step(1, "The workload's federated token, as the kubelet projects it into the pod");
    let token = std::fs::read_to_string(stack.token_directory.file())?;
    show(&claims(&token)?, &["iss", "sub", "aud", "exp"]);
    Ok(())
}

fn first_request(stack: &Stack) -> Outcome {
    step(2, "The app sends GET http://payments-kv.vault.azure.net/secrets/db: no SDK, no secret, no token");
    let (answer, time) = timed(|| stack.get(LISTED_HOST, "/secrets/db", &[]));
    fact("it waited", format!("{} ms, for one exchange at Entra", time.as_millis()));
    fact("the upstream saw", "Authorization: Bearer, a token with these claims");
    show(&seen(&answer)?, &["aud", "tid", "appid", "exp"]);
    Ok(())
}

fn second_request(stack: &Stack) -> Outcome {
    step(3, "The second request");
    let (answer, time) = timed(|| stack.get(LISTED_HOST, "/secrets/db", &[]));
    seen(&answer)?;
    fact("it took", format!("{} µs in all, with the token from the cache", time.as_micros()));
    exchanges(stack, 1)
}

fn another_host(stack: &Stack) -> Outcome {
    step(4, "A request to a host that the configuration does not list");
    let answer = stack.get(UNLISTED_HOST, "/", &[]);
    match answer.seen_header("authorization") {
        None => fact("the upstream saw", "no Authorization header: it passes as it came"),
        Some(_) => return Err("a token went to a host that is not listed".into()),
    }
    Ok(())
}

fn eight_at_once(stack: &Stack) -> Outcome {
    step(5, "Eight apps ask the managed-identity endpoint at once, for a token nobody has yet");
    let request = Request::get(stack::IMDS_HOST, &imds_path("https://storage.azure.com")).header("metadata", "true");
    let answers: Vec<Response> = thread::scope(|scope| {
        let sent: Vec<_> = (0..8).map(|_| scope.spawn(|| stack.send_imds(&request))).collect();
        sent.into_iter()
            .map(|answer| answer.join().map_err(|_| std::io::Error::other("a request panicked"))?)
            .collect::<Result<_, _>>()
    })?;
    let tokens: Vec<Value> = answers.iter().map(|answer| answer.json()["access_token"].clone()).collect();
    if !tokens.iter().all(|token| token.is_string() && *token == tokens[0]) {
        return Err("the eight did not get the same token".into());
    }
    fact("all eight got", "the same token, for https://storage.azure.com");
    exchanges(stack, 2)
}

fn sdk(stack: &Stack) -> Outcome {
    step(6, "An unchanged app with an Azure SDK: azure-identity for Python, ManagedIdentityCredential");
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
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let token = answer["tokens"][0].as_str().ok_or_else(|| answer["error"]["message"].to_string())?;
    show(&claims(token)?, &["aud", "appid"]);
    exchanges(stack, 2)
}

fn refusal_and_rotation(stack: &Stack) -> Outcome {
    step(7, "Entra says no: the file now holds the token of another service account");
    let resource = "https://management.azure.com";
    stack.directory().register_resource(resource);
    let now = SystemTime::now();
    let stranger = stack.issuer.service_account_token(NAMESPACE, "stranger", stack::AUDIENCE, now, TOKEN_LIFE);
    stack.rotate_token_with(&stranger)?;
    // Envoy sees the new file within some 0.3 s.
    thread::sleep(Duration::from_millis(500));
    let request = Request::get(stack::IMDS_HOST, &imds_path(resource)).header("metadata", "true");
    let answer = stack.send_imds(&request)?;
    fact("status", answer.status);
    fact("the app reads", answer.json()["error_description"].as_str().unwrap_or_default());
    if answer.status != 400 {
        return Err("Entra should have refused".into());
    }

    step(8, "The kubelet rotates the right token in; nothing is restarted");
    stack.rotate_token()?;
    let (started, mut answer) = (Instant::now(), answer);
    while answer.status != 200 && started.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_secs(1));
        answer = stack.send_imds(&request)?;
    }
    if answer.status != 200 {
        return Err("the rotated token was not taken".into());
    }
    fact("the same request got", format!("its token {} s later, at the next try", started.elapsed().as_secs()));
    Ok(())
}

fn imds_path(resource: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}")
}

fn exchanges(stack: &Stack, expected: u64) -> Outcome {
    let made = stack.directory().stats().token_requests;
    fact("exchanges so far", made);
    if made == expected { Ok(()) } else { Err(format!("{expected} were expected").into()) }
}

/// The claims of the token that the upstream saw.
fn seen(answer: &Response) -> Result<Value, Box<dyn Error>> {
    let header = answer.seen_header("authorization");
    let token = header.as_deref().and_then(|value| value.strip_prefix("Bearer "));
    claims(token.ok_or_else(|| format!("the upstream saw no token: {}", answer.text()))?)
}

fn claims(token: &str) -> Result<Value, Box<dyn Error>> {
    fake_entra::claims(token).ok_or_else(|| "no JWT".into())
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = what();
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
    say(&format!("   {name:<20} {value}"));
}

fn say(line: &str) {
    println!("{line}");
}
