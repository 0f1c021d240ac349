//! Tests of the status page, metrics, the exchange log and the shelves.

use super::*;
use crate::config::{Config, Fingerprint};
use crate::configuration_status::ConfigurationStatus;
use crate::http::{CallFailure, CallResponse, Reply};
use crate::status_page::{Build, Format, StatusPage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

#[test]
fn a_lease_is_counted_while_it_is_held() {
    let mut process = Process::new();
    let mut held = 0;
    let mut count = |commands: &[Effect]| {
        for command in commands {
            if let Effect::Measure(Measurement { name, value, .. }) = command
                && name == "entra_exchange_leases"
            {
                held += value;
            }
        }
        held
    };
    process.pending(0, 1);
    let key = process.spec.key();
    let commands = process.workers[0].poll(key, process.now, &process.shared);
    assert_eq!(count(&commands), 1);
    let commands = process.read(0, answer(503, &json!({})));
    assert_eq!(count(&commands), 0);
}

static CONFIGURATION: LazyLock<ConfigurationStatus> =
    LazyLock::new(|| configured(r#"{"managed_identity": {"imds": {}}}"#));

fn configured(text: &str) -> ConfigurationStatus {
    ConfigurationStatus::new(&Config::parse(text.as_bytes(), &|_| None).unwrap())
}

fn status_of(configuration: &ConfigurationStatus, process: &Process) -> Reply {
    status_as(Format::Json, configuration, process, 0)
}

/// The status page, while so many requests wait for each token.
fn status_as(format: Format, configuration: &ConfigurationStatus, process: &Process, waiting: usize) -> Reply {
    let build = Build { version: "1.2.3", commit: "c0ffee" };
    let (now, store) = (process.now, &process.shared);
    StatusPage { build, configuration, now, store, waiting: &|_| waiting }.reply(format)
}

fn html_of(process: &Process, waiting: usize) -> String {
    String::from_utf8(status_as(Format::Html, &CONFIGURATION, process, waiting).body).unwrap()
}

#[test]
fn the_page_for_a_browser_shows_what_the_json_shows() {
    let mut process = Process::new();
    assert!(html_of(&process, 0).contains("names no token"));
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(130));
    let page = html_of(&process, 0);
    let (identity, scope) = (process.spec.identity(), process.spec.scope());
    assert!(page.contains(&format!("<h2>{identity}</h2>")) && page.contains(&format!("<h3>{scope}</h3>")), "{page}");
    assert!(page.contains("<b>fresh</b>") && page.contains("requested 2m 10s ago, expires in 57m 50s"), "{page}");
    assert!(page.contains(r#"<meter max="3600" "#) && page.contains(r#" value="3440">"#), "{page}");
    assert!(page.contains("issued 2m 10s ago") && !page.contains("Requests that wait"), "{page}");
    assert!(!page.contains("abc"), "the page contains the token");
    process.advance(Duration::from_secs(3470));
    process.exchange(0, 2, refusal(90_002));
    let page = html_of(&process, 3);
    assert!(
        page.contains("<b>failing</b>") && page.contains("entra_refused AADSTS90002</strong> needs_change"),
        "{page}"
    );
    assert!(page.contains("<strong>Remedy:</strong> ") && page.contains("Tokens: 1, with a problem: 1."), "{page}");
    assert!(page.contains("Requests that wait in this worker: 3. Other workers that wait: 0."), "{page}");
    assert!(page.contains(", next attempt in ") && !page.contains("next attempt due"), "{page}");
    process.advance(Duration::from_secs(600));
    let page = html_of(&process, 0);
    assert!(page.contains(", next attempt due<p>") && page.contains("last 10m 0s ago"), "{page}");
}

#[test]
fn the_page_for_a_browser_lists_exchanges_only_once_one_has_ended() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.begin(0);
    let page = html_of(&process, 1);
    assert!(page.contains("<b>fetching</b>") && !page.contains("Exchanges</summary>"), "{page}");
    process.endpoint(0, refusal(90_002));
    let page = html_of(&process, 0);
    assert!(page.contains("Exchanges</summary><ul><li>entra_refused AADSTS90002 0s ago</ul>"), "{page}");
}

#[test]
fn a_text_from_entra_or_a_caller_cannot_add_markup_to_the_page() {
    const HOSTILE: &str = r#"<script>alert("1")</script><img src=x onerror='a'>&lt;b&gt;{}$"#;
    const ESCAPED: &str =
        "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&lt;img src=x onerror=&#39;a&#39;&gt;&amp;lt;b&amp;gt;{}$";
    let mut process = Process::new();
    let refused =
        || answer(400, &json!({"error": "invalid_request", "error_description": format!("AADSTS90002: {HOSTILE}")}));
    process.exchange(0, 1, refused());
    assert!(html_of(&process, 0).contains(ESCAPED));
    store::update(&process.shared, process.spec.key(), process.now, |entry| {
        let failure = entry.failure.as_mut().unwrap();
        for text in [&mut entry.identity, &mut entry.scope, &mut failure.problem.detail, &mut failure.problem.remedy] {
            HOSTILE.clone_into(text);
        }
        Update::Commit(())
    });
    let page = html_of(&process, 0);
    assert_eq!(
        (page.matches(ESCAPED).count(), page.contains("<script"), page.contains("<img")),
        (4, false, false),
        "{page}"
    );
}

#[test]
fn the_page_for_a_browser_loads_nothing_and_allows_nothing_but_its_own_style() {
    let reply = status_as(Format::Html, &CONFIGURATION, &Process::new(), 0);
    let header = |name: &str| reply.headers.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
    let page = std::str::from_utf8(&reply.body).unwrap();
    let (_, style) = page.split_once("<style>").unwrap();
    let (style, body) = style.split_once("</style>").unwrap();
    let hash = STANDARD.encode(Sha256::digest(style));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(header("content-security-policy"), Some(policy.as_str()));
    assert_eq!(header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!((header("cache-control"), header("vary")), (Some("no-store"), Some("accept")));
    for loading in ["url(", "@import", "<link", "<script", " src=", " href=", " style=", "javascript:"] {
        assert!(!style.contains(loading) && !body.contains(loading), "{loading}");
    }
    assert_eq!(status_of(&CONFIGURATION, &Process::new()).headers.last(), Some(&("vary", "accept".to_owned())));
}

#[test]
fn the_status_shows_the_last_exchanges_and_what_waits() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3600));
    process.exchange(0, 2, refusal(90_002));
    process.advance(Duration::from_secs(700));
    process.exchange(0, 3, refusal(90_002));
    // Two workers need the token; one of them performs the exchange.
    process.advance(Duration::from_secs(700));
    process.pending(0, 4);
    process.poll(0);
    let shown = |process: &Process, waiting| -> serde_json::Value {
        let reply = status_as(Format::Json, &CONFIGURATION, process, waiting);
        serde_json::from_slice::<serde_json::Value>(&reply.body).unwrap()["keys"][0].take()
    };
    assert_eq!(shown(&process, 0)["waiting"], json!(null));
    assert_eq!(shown(&process, 2)["waiting"], json!({"requests": 2, "workers": 0}));
    process.pending(1, 5);
    process.poll(1);
    assert_eq!(shown(&process, 0)["waiting"], json!({"requests": 0, "workers": 1}));
    let shown = shown(&process, 2);
    assert_eq!(shown["waiting"], json!({"requests": 2, "workers": 1}));
    assert_eq!(
        shown["exchanges"],
        json!([
            {"outcome": "entra_refused", "aadsts": "AADSTS90002", "count": 2, "first_age_s": 1400, "last_age_s": 700},
            {"outcome": "issued", "count": 1, "first_age_s": 5000, "last_age_s": 5000},
        ])
    );
    let page = html_of(&process, 2);
    assert!(
        page.contains("<li>entra_refused AADSTS90002 × 2, first 23m 20s ago, last 11m 40s ago<li>issued 1h 23m ago"),
        "{page}"
    );
    assert!(page.contains("Requests that wait in this worker: 2. Other workers that wait: 1."), "{page}");
}

#[test]
fn the_status_shows_the_configuration_in_use_and_tokens_that_were_not_requested_yet() {
    let mut process = Process::new();
    let text = r#"{
        "identities": [{"name": "a", "tenant_id": "t.example", "client_id": "aaaaaaaa-0000-4000-8000-000000000001", "resources": ["https://r.example"]}],
        "destinations": [{"hosts": ["x.example"], "scope": "x/.default", "plaintext": "allow"}],
        "managed_identity": {"imds": {}}
    }"#;
    let shown = |process: &Process| -> serde_json::Value {
        serde_json::from_slice(&status_of(&configured(text), process).body).unwrap()
    };
    let keys = |process: &Process| -> Vec<String> {
        let body = shown(process);
        let keys = body["keys"].as_array().unwrap().iter();
        keys.map(|key| format!("{} {} {}", key["identity"], key["scope"], key["state"]).replace('"', "")).collect()
    };
    assert_eq!(shown(&process)["configuration"]["sha256"], Fingerprint::of(text.as_bytes()).hex());
    assert_eq!(keys(&process), ["a https://r.example/.default absent", "a x/.default absent"]);
    let config = Config::parse(text.as_bytes(), &|_| None).unwrap();
    process.spec = Arc::new(config.identities[0].spec("x/.default").unwrap());
    process.exchange(0, 1, token(3600));
    assert_eq!(keys(&process), ["a https://r.example/.default absent", "a x/.default fresh"]);
}

#[test]
fn the_status_shows_the_state_of_each_token_and_never_the_token() {
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
    process.poll(0);
    let (identity, scope) = (process.spec.identity().to_owned(), process.spec.scope().to_owned());
    let key = process.spec.key().short();
    assert_eq!(status(&process), json!({"identity": identity, "scope": scope, "key": key, "state": "fetching"}));
    process.assertion(0);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(100));
    let seen = status(&process);
    assert_eq!(seen["state"], "fresh");
    assert_eq!(seen["token"]["age_s"], 100);
    assert_eq!((&seen["token"]["usable_for_s"], &seen["token"]["expires_in_s"]), (&json!(3470), &json!(3500)));
    process.advance(Duration::from_secs(3300));
    assert_eq!(status(&process)["state"], "due");
    process.advance(Duration::from_secs(200));
    process.exchange(0, 2, refusal(90_002));
    let seen = status(&process);
    assert_eq!(seen["state"], "failing");
    assert_eq!(seen["last_problem"]["aadsts"], "AADSTS90002");
    assert_eq!((&seen["last_problem"]["failures"], &seen["last_problem"]["age_s"]), (&json!(1), &json!(0)));
    assert!(seen["last_problem"]["next_try_in_s"].as_u64().is_some() && seen.get("token").is_none());
}

/// Creates a process in which worker 0 has performed an exchange for each identity and scope, with this response.
fn with_exchanges(of: &[(&str, &str)], answer: fn() -> CallResult) -> (Process, Vec<Effect>) {
    let mut process = Process::new();
    let mut commands = Vec::new();
    for (identity, scope) in of {
        process.spec = spec_of(identity, scope, &["entra"], None);
        process.pending(0, 1);
        process.poll(0);
        process.assertion(0);
        commands.extend(process.called(0, answer()));
    }
    (process, commands)
}

#[test]
fn the_status_names_each_state_of_a_token_that_is_refreshed_as_the_glossary_does() {
    let mut process = Process::new();
    let state = |process: &Process| {
        let body: serde_json::Value = serde_json::from_slice(&status_of(&CONFIGURATION, process).body).unwrap();
        body["keys"][0]["state"].as_str().unwrap().to_owned()
    };
    process.exchange(0, 1, token(3600));
    process.ready(0);
    let mut states = vec![state(&process)];
    process.advance(process.due_in(0).unwrap());
    states.push(state(&process));
    process.poll(0);
    states.push(state(&process));
    process.assertion(0);
    process.endpoint(0, refusal(90_002));
    states.push(state(&process));
    assert_eq!(states, ["fresh", "due", "refreshing", "due"]);
    let glossary = include_str!("../../../../../docs/glossary.md");
    let states = ["absent", "fetching", "failing"].into_iter().chain(states.iter().map(String::as_str));
    assert!(states.into_iter().all(|state| glossary.contains(&format!("\n| `{state}` |"))), "the glossary lists them");
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
fn the_status_shows_the_first_keys_and_the_number_of_omitted_keys() {
    for (of, left_out) in [(500, None), (503, Some(3))] {
        let resources: Vec<String> = (0..of).rev().map(|number| format!("https://{number:03}.example")).collect();
        let client = "aaaaaaaa-0000-4000-8000-000000000001";
        let identity = json!({"tenant_id": "t.example", "client_id": client, "resources": resources});
        let configuration =
            configured(&json!({"identities": [identity], "managed_identity": {"imds": {}}}).to_string());
        let reply = status_of(&configuration, &Process::new());
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let keys = body["keys"].as_array().unwrap();
        assert_eq!((keys.len(), &keys[499]["scope"]), (500, &json!("https://499.example/.default")));
        assert_eq!(body.get("keys_left_out").map(|number| number.as_u64().unwrap()), left_out);
        let page = String::from_utf8(status_as(Format::Html, &configuration, &Process::new(), 0).body).unwrap();
        assert_eq!(
            (page.contains("not shown"), page.contains("<p>3 more tokens")),
            (left_out.is_some(), left_out.is_some())
        );
    }
}

/// Returns the tags `outcome` and `class` of the counted exchanges.
fn counted(commands: &[Effect]) -> Vec<String> {
    let measured = commands.iter().filter_map(|command| match command {
        Effect::Measure(measured) if measured.name.ends_with("entra_exchange_exchanges_total") => Some(&measured.name),
        _ => None,
    });
    measured
        .map(|name| name.split(";.;").skip(1).take(2).map(|tag| tag.replace("=.=", "=")).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Returns the logged exchange events.
fn logged(commands: &[Effect]) -> Vec<String> {
    let events = commands.iter().filter_map(|command| match command {
        Effect::Log(event) => Some(event.to_string()),
        _ => None,
    });
    events.collect()
}

/// Performs an exchange in worker 0. Each call gets the next of these responses.
fn exchange_with(process: &mut Process, answers: Vec<CallResult>) -> Vec<Effect> {
    process.pending(0, 1);
    let key = process.spec.key();
    let mut all = Vec::new();
    let mut commands = process.workers[0].poll(key, process.now, &process.shared);
    for answer in answers {
        while commands.iter().all(|command| !matches!(command, Effect::Call(..))) {
            all.append(&mut commands);
            process.advance(IMMEDIATE_RETRY_DELAY);
            commands = process.workers[0].tick(process.now, &process.shared);
        }
        let reads = commands.iter().any(|command| matches!(command, Effect::Call(Purpose::Assertion(_), _)));
        all.append(&mut commands);
        commands = if reads { process.read(0, answer) } else { process.called(0, answer) };
    }
    all.append(&mut commands);
    all
}

#[test]
fn a_failure_is_counted_logged_and_shown_with_its_class() {
    type Answers = fn(&Process) -> Vec<CallResult>;
    let cases: [(Answers, &[&str]); 9] = [
        (|process| vec![process.federated_token(), refusal(90_002)], &["failed needs_change"]),
        (|process| vec![process.federated_token(), refusal(90_033)], &["failed transient"]),
        (|process| vec![process.federated_token(), refusal(50_196)], &["failed throttled"]),
        // A wrong subject and an expired token are also rejected in the second attempt.
        (
            |process| [700_213; 2].into_iter().flat_map(|code| [process.federated_token(), refusal(code)]).collect(),
            &["retried retry_once", "failed needs_change"],
        ),
        (
            |process| [700_024; 2].into_iter().flat_map(|code| [process.federated_token(), refusal(code)]).collect(),
            &["retried stale_assertion", "failed needs_change"],
        ),
        (
            |process| vec![process.federated_token(), refusal(700_213), process.federated_token(), token(3600)],
            &["retried retry_once", "issued none"],
        ),
        // Missing clusters, and the wrong watched folder: Envoy serves the first token for ever.
        (|process| vec![process.federated_token(), Err(CallFailure::NoSuchCluster)], &["failed needs_change"]),
        (|_| vec![Err(CallFailure::NoSuchCluster)], &["failed needs_change"]),
        (
            |process| {
                let mut later = Process::new();
                (later.now, later.federated_lifetime) = (process.now.minus(Duration::from_secs(7200)), 3600);
                vec![later.federated_token()]
            },
            &["failed needs_change"],
        ),
    ];
    for (answers, expected) in cases {
        let mut process = Process::new();
        let answers = answers(&process);
        let commands = exchange_with(&mut process, answers);
        let expected: Vec<String> = expected
            .iter()
            .map(|counted| {
                counted.split_once(' ').map(|(outcome, class)| format!("outcome={outcome} class={class}")).unwrap()
            })
            .collect();
        assert_eq!(counted(&commands), expected);
        let last = expected.last().unwrap();
        if let Some(class) = last.strip_prefix("outcome=failed ") {
            let lines = logged(&commands);
            let line = lines.last().unwrap();
            assert!(line.contains(class) && line.contains("outcome=failed"), "{line}");
            let shown: serde_json::Value = serde_json::from_slice(&status_of(&CONFIGURATION, &process).body).unwrap();
            assert_eq!(shown["keys"][0]["last_problem"]["class"], class.trim_start_matches("class="));
        }
    }
}

#[test]
fn a_failed_exchange_is_logged_with_its_duration_and_the_number_of_failures() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.advance(Duration::from_millis(70));
    process.assertion(0);
    process.advance(Duration::from_millis(1234));
    let commands = process.called(0, refusal(90_002));
    let line = logged(&commands).pop().unwrap();
    assert!(line.contains(" took_ms=1234 failures=1 next_try_in_ms="), "{line}");
    process.advance(Duration::from_secs(600));
    process.pending(0, 2);
    process.poll(0);
    process.advance(Duration::from_millis(70));
    let commands = process.read(0, answer(503, &json!({})));
    let line = logged(&commands).pop().unwrap();
    assert!(line.contains("code=assertion_unavailable") && line.contains(" took_ms=70 failures=2 "), "{line}");
}

/// Returns the keys of a line, in order.
fn keys(line: &str) -> Vec<String> {
    let (mut keys, mut rest) = (Vec::new(), line);
    while let Some((key, value)) = rest.split_once('=') {
        keys.push(key.to_owned());
        let mut parsed = serde_json::Deserializer::from_str(value).into_iter::<String>();
        let end = match parsed.next() {
            Some(Ok(_)) if value.starts_with('"') => parsed.byte_offset(),
            _ => value.find(' ').unwrap_or(value.len()),
        };
        rest = value[end..].trim_start();
    }
    assert_eq!(rest, "", "{line}");
    keys
}

/// The schema of the audit trail. Later versions may add fields at the end and do not change existing ones.
#[test]
fn the_audit_trail_has_exactly_the_documented_fields() {
    const PAGE: &str = include_str!("../../../../../docs/audit.md");
    const FAILED: &str = "event outcome identity scope code class aadsts trace_id correlation_id detail took_ms failures next_try_in_ms remedy";
    const RETRIED: &str = "event outcome identity scope code class aadsts trace_id correlation_id detail";
    let guid = "11111111-1111-4111-8111-111111111111";
    let refused = |code: u32| {
        answer(
            401,
            &json!({"error": "x", "error_description": "it says \"a=b\" to\tyou", "error_codes": [code], "trace_id": guid, "correlation_id": guid}),
        )
    };
    let cached = || {
        let Ok(response) = token(3600) else { panic!() };
        Ok(CallResponse { request_id: Some(guid.as_bytes().to_vec()), ..response })
    };
    let silence = || {
        Ok(CallResponse {
            status: 504,
            retry_after: None,
            request_id: None,
            grpc: None,
            body: Vec::new(),
            is_envoys_own: true,
        })
    };
    let federated = Process::new().federated_token();
    let mut lines = Vec::new();
    for (answers, expected) in [
        (vec![federated.clone(), cached()], vec!["event outcome identity scope expires_in_s took_ms cluster trace_id"]),
        (vec![federated.clone(), refused(700_213), federated.clone(), refused(700_213)], vec![RETRIED, FAILED]),
        (
            vec![federated.clone(), silence(), silence()],
            vec![
                "event outcome identity scope code class detail next_cluster remedy",
                "event outcome identity scope code class detail took_ms failures next_try_in_ms remedy",
            ],
        ),
    ] {
        let mut process = Process::new();
        process.spec = spec_of("payments", "s/.default", &["entra", "entra_new_connection"], None);
        let of_this = logged(&exchange_with(&mut process, answers));
        assert_eq!(of_this.iter().map(|line| keys(line).join(" ")).collect::<Vec<_>>(), expected);
        lines.extend(of_this);
    }
    for key in lines.iter().flat_map(|line| keys(line)).filter(|key| key != "event") {
        assert!(PAGE.contains(&format!("`{key}`")), "docs/audit.md has no {key}");
    }
}

/// Internal listeners do not respond to the VM on the main thread, which cannot read the federated token and does not need it.
#[test]
fn a_vm_that_serves_no_requests_counts_no_failure_when_it_cannot_read_the_federated_token() {
    let mut process = Process::new();
    process.workers[0].keep_warm(&[Arc::clone(&process.spec)], process.now);
    let mut commands = process.workers[0].tick(process.now, &process.shared);
    assert!(commands.iter().any(|command| matches!(command, Effect::Call(Purpose::Assertion(_), _))));
    commands.extend(process.read(0, answer(503, &json!({}))));
    let named = |name: &str| {
        commands.iter().any(|command| matches!(command, Effect::Measure(measured) if measured.name.contains(name)))
    };
    assert!(!named("assertion_reads") && !named("exchanges_total") && logged(&commands).is_empty());
}

/// Names cannot be removed from Envoy's shared data, so their number is fixed, whatever tokens are requested.
#[test]
fn keys_are_distributed_over_existing_shelves() {
    let made: Vec<String> = {
        let shared = Shared::default();
        shared.prepare();
        let names = shared.memory.values.borrow();
        names.keys().cloned().collect()
    };
    assert_eq!(made.len(), 256 + 16 + 1);
    let scopes: Vec<String> = (0..40).map(|number| format!("{number}/.default")).collect();
    let of: Vec<(&str, &str)> = scopes.iter().map(|scope| ("a", scope.as_str())).collect();
    let (process, _) = with_exchanges(&of, || token(3600));
    let values = process.shared.memory.values.borrow();
    assert!(values.keys().all(|name| made.contains(name)), "{:?}", values.keys());
    assert!(values.values().filter(|(value, _)| value != EMPTY).count() > 20);
}
