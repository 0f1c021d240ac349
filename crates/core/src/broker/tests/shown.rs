//! What can be seen of tokens from outside: readiness, status, metrics, shelves.

use super::*;
use crate::config::Config;
use crate::configuration_status::{ConfigurationStatus, Fingerprint};
use crate::http::Reply;
use std::sync::LazyLock;

#[test]
fn a_lease_is_counted_while_it_is_held() {
    let mut process = Process::new();
    let mut held = 0;
    let mut count = |commands: &[Command]| {
        for command in commands {
            if let Command::Measure(Measurement { name, value, .. }) = command
                && name == "entra_exchange_leases"
            {
                held += value;
            }
        }
        held
    };
    process.pending(0, 1);
    let key = process.grant.key();
    let commands = process.workers[0].look(key, process.now, &process.shared);
    assert_eq!(count(&commands), 1);
    let commands = process.workers[0].assertion_arrived(key, answer(503, &json!({})), process.now, &process.shared);
    assert_eq!(count(&commands), 0);
}

static CONFIGURATION: LazyLock<ConfigurationStatus> =
    LazyLock::new(|| configured(r#"{"managed_identity": {"imds": {}}}"#));

fn configured(text: &str) -> ConfigurationStatus {
    ConfigurationStatus::new(&Config::parse(text.as_bytes(), &|_| None).unwrap())
}

fn status_of(configuration: &ConfigurationStatus, process: &Process) -> Reply {
    let build = Build { version: "1.2.3", commit: "c0ffee" };
    crate::broker::status(build, configuration, process.now, &process.shared)
}

#[test]
fn the_status_shows_which_configuration_is_in_use_and_tokens_that_nobody_asked_for_yet() {
    let process = Process::new();
    let text = r#"{
        "identities": [{"name": "a", "tenant_id": "t.example", "client_id": "aaaaaaaa-0000-4000-8000-000000000001", "resources": ["https://r.example"]}],
        "destinations": [{"hosts": ["x.example"], "scope": "x/.default", "plaintext": "allowed"}],
        "managed_identity": {"imds": {}}
    }"#;
    let body: serde_json::Value = serde_json::from_slice(&status_of(&configured(text), &process).body).unwrap();
    assert_eq!(body["configuration"]["sha256"], Fingerprint::of(text.as_bytes()).hex());
    let keys: Vec<_> =
        body["keys"].as_array().unwrap().iter().map(|key| (&key["identity"], &key["scope"], &key["state"])).collect();
    let absent = json!("absent");
    assert_eq!(
        keys,
        [(&json!("a"), &json!("https://r.example/.default"), &absent), (&json!("a"), &json!("x/.default"), &absent)]
    );
}

#[test]
fn the_status_tells_people_where_each_token_stands_and_never_the_token() {
    let mut process = Process::new();
    let status = |process: &Process| {
        let reply = status_of(&CONFIGURATION, process);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((&body["version"], &body["commit"]), (&json!("1.2.3"), &json!("c0ffee")));
        assert!(body["time"].as_str().unwrap().ends_with('Z') && !body.to_string().contains("abc"), "{body}");
        body["keys"].get(0).cloned().unwrap_or_default()
    };
    assert_eq!(status(&process), json!(null));
    process.pending(0, 1);
    process.look(0);
    let (identity, scope) = (process.grant.identity().to_owned(), process.grant.scope().to_owned());
    let key = process.grant.key().short();
    assert_eq!(status(&process), json!({"identity": identity, "scope": scope, "key": key, "state": "exchanging"}));
    process.assertion(0);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(100));
    let seen = status(&process);
    assert_eq!(seen["state"], "valid");
    assert_eq!(seen["token"]["age_s"], 100);
    assert_eq!((&seen["token"]["usable_for_s"], &seen["token"]["expires_in_s"]), (&json!(3470), &json!(3500)));
    process.advance(Duration::from_secs(3300));
    assert_eq!(status(&process)["state"], "due");
    process.advance(Duration::from_secs(200));
    process.exchange(0, 2, refusal(90_002));
    let seen = status(&process);
    assert_eq!(seen["state"], "backing_off");
    assert_eq!(seen["last_problem"]["aadsts"], "AADSTS90002");
    assert_eq!((&seen["last_problem"]["failures"], &seen["last_problem"]["age_s"]), (&json!(1), &json!(0)));
    assert!(seen["last_problem"]["next_try_in_s"].as_u64().is_some() && seen.get("token").is_none());
}

/// The earliest end among the tokens of an identity, and of no other.
#[test]
fn the_earliest_end_of_an_identitys_tokens_is_measured() {
    let mut process = Process::new();
    let mut ends = Vec::new();
    for (identity, scope, life) in [("a", "x/.default", 3600), ("b", "x2/.default", 600), ("a", "y/.default", 7000)] {
        process.grant = grant_of(identity, scope, &["entra"], None);
        process.pending(0, 1);
        process.look(0);
        process.assertion(0);
        let key = process.grant.key();
        let commands = process.workers[0].endpoint_answered(key, token(life), process.now, &process.shared);
        ends.extend(commands.into_iter().filter_map(|command| match command {
            Command::Measure(measured) if measured.name.contains("token_expiry") => {
                Some((measured.name, measured.value))
            }
            _ => None,
        }));
    }
    let name = |identity: &str| format!("identity=.={identity};.;entra_exchange_token_expiry_timestamp_seconds");
    let at = |life: u64| i64::try_from(START.unix_seconds() + life).unwrap();
    assert_eq!(ends, [(name("a"), at(3600)), (name("b"), at(600)), (name("a"), at(3600))]);
}

/// A process whose worker 0 has had an exchange for each of these, which came to this.
fn with_exchanges(of: &[(&str, &str)], answer: fn() -> CallResult) -> (Process, Vec<Command>) {
    let mut process = Process::new();
    let mut commands = Vec::new();
    for (identity, scope) in of {
        process.grant = grant_of(identity, scope, &["entra"], None);
        process.pending(0, 1);
        process.look(0);
        process.assertion(0);
        let key = process.grant.key();
        commands.extend(process.workers[0].endpoint_answered(key, answer(), process.now, &process.shared));
    }
    (process, commands)
}

#[test]
fn the_status_is_in_the_order_of_identity_and_scope() {
    let (process, _) = with_exchanges(&[("b", "x/.default"), ("a", "z/.default"), ("a", "y/.default")], || token(3600));
    let reply = status_of(&CONFIGURATION, &process);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let shown: Vec<String> = body["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| format!("{} {}", key["identity"].as_str().unwrap(), key["scope"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, ["a y/.default", "a z/.default", "b x/.default"]);
}

#[test]
fn the_status_shows_the_first_keys_of_many_and_says_how_many_there_are_more() {
    let scopes: Vec<String> = (0..503).map(|number| format!("{number:03}/.default")).collect();
    let of: Vec<(&str, &str)> = scopes.iter().rev().map(|scope| ("a", scope.as_str())).collect();
    let (process, _) = with_exchanges(&of, || token(3600));
    let reply = status_of(&CONFIGURATION, &process);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let keys = body["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[499]["scope"], &body["keys_left_out"]), (500, &json!("499/.default"), &json!(3)));
}

#[test]
fn a_failure_is_counted_by_how_it_passes() {
    let classes = |answer: fn() -> CallResult| {
        let (_, commands) = with_exchanges(&[("a", "x/.default")], answer);
        let measured = commands.into_iter().find_map(|command| match command {
            Command::Measure(measured) if measured.name.contains("exchanges_total") => Some(measured.name),
            _ => None,
        });
        measured.unwrap()
    };
    for (answer, class) in [
        ((|| refusal(90_002)) as fn() -> CallResult, "by_change"),
        (|| refusal(90_033), "by_itself"),
        (|| refusal(50_196), "throttled"),
    ] {
        let expected = format!("identity=.=a;.;outcome=.=failed;.;class=.={class};.;entra_exchange_exchanges_total");
        assert_eq!(classes(answer), expected);
    }
}

/// Names can never be removed from Envoy's shared data: their number is fixed, whatever is asked for.
#[test]
fn keys_are_spread_over_shelves_that_were_made_beforehand() {
    let made: Vec<String> = {
        let shared = Shared::default();
        prepare(&shared);
        let names = shared.values.borrow();
        names.keys().cloned().collect()
    };
    assert_eq!(made.len(), 256 + 16 + 1);
    let scopes: Vec<String> = (0..40).map(|number| format!("{number}/.default")).collect();
    let of: Vec<(&str, &str)> = scopes.iter().map(|scope| ("a", scope.as_str())).collect();
    let (process, _) = with_exchanges(&of, || token(3600));
    let values = process.shared.values.borrow();
    assert!(values.keys().all(|name| made.contains(name)), "{:?}", values.keys());
    assert!(values.values().filter(|(value, _)| value != shared::EMPTY).count() > 20);
}
