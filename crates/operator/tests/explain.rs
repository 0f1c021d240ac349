//! `explain` and the filter agree: for random configurations and requests, the engine does what `explain` says.
//!
//! The engine is the filter without Envoy. It gets the same configuration text and the same request, and is driven up to the request
//! that it sends to the token endpoint.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::broker::{MemoryStore, QueueId, Store, StreamId};
use entra_exchange_core::config::Config;
use entra_exchange_core::engine::{CallId, Engine, Flow, Host, HttpHost};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::{CallFailure, CallResponse, HttpCall, Reply};
use entra_exchange_core::request::{DescribedRequest, RequestSource};
use entra_exchange_core::sent::SentTokens;
use entra_exchange_core::status_page::Build;
use entra_exchange_core::time::Timestamp;
use operator::Source;
use operator::explain::{self, Explained, Question};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// One process with one request.
#[derive(Default)]
struct Process {
    store: MemoryStore,
    sent: SentTokens,
    request: DescribedRequest,
    on_gateway: bool,
    headers: HashMap<String, String>,
    messages: Vec<Vec<u8>>,
    calls: Vec<HttpCall>,
    reply: Option<(u16, String)>,
    resumed: bool,
}

impl Host for Process {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_334_000)
    }
    fn store(&self) -> &dyn Store {
        &self.store
    }
    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        self.calls.push(call.clone());
        Ok(CallId(u32::try_from(self.calls.len()).unwrap()))
    }
    fn wake(&mut self, _: QueueId, message: &[u8]) {
        self.messages.push(message.to_vec());
    }
    fn set_timer(&mut self, _: Option<Duration>) {}
    fn log(&mut self, _: &Event) {}
}

impl HttpHost for Process {
    fn request(&self, _: StreamId) -> Option<&dyn RequestSource> {
        Some(&self.request)
    }
    fn set_header(&mut self, _: StreamId, name: &str, value: Option<&str>) {
        self.headers.insert(name.to_owned(), value.unwrap_or("removed").to_owned());
    }
    fn resume(&mut self, _: StreamId) {
        self.resumed = true;
    }
    fn response_status(&self, _: StreamId) -> Option<u16> {
        None
    }
    fn set_filter_state(&mut self, _: StreamId, _: &str, _: &str) {}
    fn clear_route_cache(&mut self, _: StreamId) {}
    fn reply(&mut self, _: StreamId, reply: &Reply, details: &str) {
        self.reply = Some((reply.status, details.to_owned()));
    }
    fn sent(&self) -> &SentTokens {
        &self.sent
    }
    fn node_id(&self) -> Option<Vec<u8>> {
        let kind = if self.on_gateway { "router" } else { "sidecar" };
        Some(format!("{kind}~10.0.0.1~pod~domain").into_bytes())
    }
    fn random(&mut self) -> u64 {
        7
    }
    fn register_queue(&mut self, _: &str) -> QueueId {
        QueueId(0)
    }
}

fn ok(body: &str) -> Result<CallResponse, CallFailure> {
    Ok(CallResponse::new(|name| (name == ":status").then(|| b"200".to_vec()), body.as_bytes().to_vec()))
}

/// The token of the call with this index.
fn federated_token(index: usize) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(
        r#"{{"iss": "https://issuer.example", "sub": "{index}", "aud": "api://AzureADTokenExchange", "exp": 1795337600}}"#
    );
    format!("{}.{}.c2ln", part(r#"{"alg": "RS256"}"#), part(&claims))
}

/// What a source of this kind answers.
fn answer_of(source: &str, token: &str) -> String {
    match source {
        "github_actions" => format!(r#"{{"value": "{token}"}}"#),
        "azure_pipelines" => format!(r#"{{"oidcToken": "{token}"}}"#),
        "vault" => format!(r#"{{"data": {{"token": "{token}", "ttl": 600}}}}"#),
        "oidc_client_credentials" | "token_exchange" => format!(r#"{{"access_token": "{token}", "expires_in": 300}}"#),
        "http" => format!(r#"{{"result": {{"jwt": "{token}"}}}}"#),
        _ => token.to_owned(),
    }
}

/// A part of each secret in the environment.
const SECRET: &str = "not-to-be-shown";

fn variable(name: &str) -> Option<String> {
    match name {
        "ACTIONS_ID_TOKEN_REQUEST_URL" => {
            Some("https://run.actions.githubusercontent.com/1//idtoken?api-version=2.0".to_owned())
        }
        "SYSTEM_OIDCREQUESTURI" => Some("https://dev.azure.com/org/oidctoken".to_owned()),
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN" | "SYSTEM_ACCESSTOKEN" | "SECRET" => Some(format!("{SECRET}-{name}")),
        _ => None,
    }
}

/// Sends the request to the filter, and checks that it does what `explain` says.
fn agree(text: &str, question: &Question, explained: &Explained) {
    let mut request = explain::described(question).unwrap();
    if let Some(cluster) = &explained.assumed_cluster {
        request.cluster_name = Some(cluster.clone());
    }
    let mut process = Process { request, on_gateway: question.on_gateway, ..Process::default() };
    let build = Build { version: "1", commit: "test" };
    let mut engine = Engine::configure(text.as_bytes(), &variable, build, &mut process).unwrap();
    let flow = engine.request(StreamId(1), &mut process);
    match explained.outcome {
        "unchanged" | "pass" | "keep" | "report" => {
            assert_eq!((flow, &process.reply), (Flow::Continue, &None), "{text}\n{question:?}\n{explained:?}");
        }
        "refuse" => {
            let reason = explained.problem.as_ref().unwrap();
            let (status, details) = process.reply.unwrap();
            assert_eq!((flow, status), (Flow::Pause, reason.status), "{text}\n{question:?}\n{explained:?}");
            assert!(details.is_empty() || details.contains(reason.code), "{details}: {explained:?}");
        }
        "inject" | "answer" => exchange(&mut engine, &mut process, flow, explained),
        other => panic!("{other}"),
    }
}

/// A call contains the token of the call before it, and no other.
fn carries(call: &HttpCall, token: Option<&str>) {
    let body = String::from_utf8(call.body.clone()).unwrap();
    match token {
        Some(token) => assert!(body.contains(token), "{} {body}", call.cluster),
        None => assert!(!body.contains(".c2ln"), "{} {body}", call.cluster),
    }
}

/// The filter gets the federated token and calls the token endpoint, each call as `explain` says, and then forwards or answers the request.
fn exchange(engine: &mut Engine, process: &mut Process, flow: Flow, explained: &Explained) {
    let expected = explained.exchange.as_ref().unwrap();
    assert_eq!((flow, &process.reply), (Flow::Pause, &None), "{explained:?}");
    let messages = std::mem::take(&mut process.messages);
    engine.woken(&messages, process);
    let mut previous = None;
    for (index, source) in expected.source_calls.iter().enumerate() {
        assert_eq!(process.calls.len(), index + 1, "{expected:?}");
        let call = &process.calls[index];
        assert_eq!(
            (&call.cluster, call.method, &call.authority, &call.path),
            (&source.cluster, source.method, &source.authority, &source.path)
        );
        carries(call, previous.as_deref());
        let token = federated_token(index);
        let id = CallId(u32::try_from(index + 1).unwrap());
        engine.call_finished(id, ok(&answer_of(source.source, &token)), process);
        previous = Some(token);
    }
    let last = expected.source_calls.len();
    let call = process.calls[last].clone();
    carries(&call, previous.as_deref());
    assert_eq!(call.cluster, expected.clusters[0]);
    assert_eq!(format!("https://{}{}", call.authority, call.path), expected.url);
    let body = String::from_utf8(call.body).unwrap();
    let form = |value: &str| value.replace(':', "%3A").replace('/', "%2F");
    assert!(body.contains(&format!("client_id={}&", expected.client_id)), "{body}");
    assert!(body.contains(&format!("scope={}&", form(&expected.scope))), "{body} {expected:?}");
    engine.call_finished(
        CallId(u32::try_from(last + 1).unwrap()),
        ok(r#"{"token_type": "Bearer", "expires_in": 3600, "access_token": "abc"}"#),
        process,
    );
    match &explained.sends {
        Some(sends) => {
            assert!(process.resumed, "{explained:?}");
            assert_eq!(process.headers[&sends.header], sends.value.replace("<token>", "abc"));
            assert!(sends.removes.iter().all(|name| process.headers[name] == "removed"));
        }
        None => assert_eq!(process.reply.as_ref().unwrap().0, 200),
    }
}

/// An entry of `assertions` with this name: any source, or one that exchanges the token of `input`.
fn assertion(name: &'static str, input: &'static str) -> impl Strategy<Value = String> {
    let exchange = format!(r#""source": "token_exchange", "path": "/token", "subject_token": "{input}""#);
    let sources = [
        r#""source": "file""#,
        r#""source": "github_actions""#,
        r#""source": "azure_pipelines", "service_connection_id": "c0ffee00-1234-4cde-8f01-23456789abcd""#,
        r#""source": "google_metadata""#,
        r#""source": "vault", "role": "a/b", "authority": "vault.example.com", "namespace": "team""#,
        r#""source": "oidc_client_credentials", "path": "/t", "basic_auth": { "id": "i", "secret_from_env": "SECRET" }"#,
        r#""source": "oidc_client_credentials", "path": "/t", "form_from_env": { "client_secret": "MISSING" }"#,
        r#""source": "http", "request": { "path": "/x?a=b", "query": { "c": "ä/" }, "bearer_from_env": "SECRET" }, "response": { "token": "/result/jwt" }"#,
    ];
    let with_input = [
        exchange.clone(),
        exchange,
        format!(r#""source": "oidc_client_credentials", "path": "/t", "client_assertion": "{input}""#),
        format!(
            r#""source": "http", "request": {{ "path": "/x", "form_from_assertion": {{ "jwt": "{input}" }} }}, "response": {{ "token": "/result/jwt" }}"#
        ),
    ];
    let all: Vec<String> = sources.into_iter().map(str::to_owned).chain(with_input).collect();
    prop::sample::select(all)
        .prop_map(move |source| format!(r#"{{ "name": "{name}", "cluster": "to_{name}", {source} }}"#))
}

/// The sections `assertions` and `identities`: chains of up to three sources.
fn identities() -> impl Strategy<Value = String> {
    let entries = (assertion("x", "y"), assertion("y", "z"), assertion("z", "projected_token"));
    let named = prop::sample::select(vec!["projected_token", "projected_token", "x", "x", "y", "z"]);
    (entries, named.clone(), named).prop_map(|((x, y, z), a, b)| {
        format!(
            r#""assertions": [ {x},
    {y},
    {z} ],
  "identities": [
    {{ "name": "a", "tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001",
      "assertion": "{a}" }},
    {{ "name": "b", "tenant_id": "22222222-2222-4222-8222-222222222222", "client_id": "aaaaaaaa-0000-4000-8000-000000000002",
      "resources": ["https://vault.azure.net"], "assertion": "{b}" }} ]"#
        )
    })
}

fn destination() -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec!["one.example", "two.example", "*.example", "one.example:8443"]);
    let path = prop::sample::select(vec!["", r#", "path_prefixes": ["/v1"]"#, r#", "path_prefixes": ["/v1/users"]"#]);
    let method = prop::sample::select(vec!["", r#", "methods": ["GET"]"#, r#", "methods": ["POST", "DELETE"]"#]);
    let action = prop::sample::select(vec!["inject", "inject", "inject", "inject", "report", "pass", "refuse"]);
    let route = prop::sample::select(vec![
        r#", "tls_clusters": ["to_{host}"]"#,
        r#", "tls_clusters": ["api"]"#,
        r#", "plaintext": "allow""#,
        "",
    ]);
    let more = prop::sample::select(vec![
        "",
        r#", "header": "x-token""#,
        r#", "on_failure": "pass""#,
        r#", "existing_credential": "refuse""#,
        r#", "existing_credential": "replace""#,
    ]);
    (host, path, method, action, route, more, any::<bool>()).prop_map(|(host, path, method, action, route, more, first)| {
        let identity = if first { "a" } else { "b" };
        format!(
            r#"{{ "hosts": ["{host}"]{path}{method}, "action": "{action}", "scope": "api://{identity}/.default", "identity": "{identity}"{route}{more} }}"#
        )
    })
}

fn configuration() -> impl Strategy<Value = String> {
    let managed = prop::sample::select(vec![
        "",
        r#", "managed_identity": { "identities": ["a", "b"], "imds": {} }"#,
        r#", "managed_identity": { "identities": ["b"], "imds": { "pass": ["/metadata/instance"] } }"#,
        r#", "managed_identity": { "identities": ["a"], "imds": {}, "action": "refuse" }"#,
        r#", "managed_identity": { "identities": ["b"], "imds": {}, "action": "report" }"#,
    ]);
    (identities(), prop::collection::vec(destination(), 1..5), managed).prop_map(|(identities, destinations, managed)| {
        let destinations = destinations.join(",\n  ");
        format!("{{ \"entra\": {{ \"clusters\": [\"e\", \"f\"] }}, {identities},\n\"destinations\": [\n  {destinations} ]{managed} }}")
    })
}

fn question() -> impl Strategy<Value = Question> {
    let url = prop::sample::select(vec![
        "http://one.example/v1/users/7",
        "http://one.example/v1/users/7",
        "http://two.example/v1/users",
        "http://one.example/v1?a=b",
        "http://ONE.example:8443/",
        "http://two.example/v1/../x",
        "http://three.example/",
        "http://other.test/",
        "http://169.254.169.254/metadata/instance",
    ]);
    let managed = prop::sample::select(vec![
        "resource=https://vault.azure.net",
        "resource=https://vault.azure.net&client_id=aaaaaaaa-0000-4000-8000-000000000002",
        "resource=https://storage.azure.com&client_id=aaaaaaaa-0000-4000-8000-000000000002",
        "resource=https://storage.azure.com&client_id=aaaaaaaa-0000-4000-8000-000000000001",
        "client_id=unknown&resource=x",
        "",
    ]);
    let base = prop_oneof![
        3 => url.prop_map(|url| Question { url: url.to_owned(), ..Question::default() }),
        1 => managed.prop_map(Question::managed_identity),
    ];
    let rare = prop::sample::select(vec!["POST", "POST", "DELETE", "get", "TRACE", "CONNECT"]);
    let method = prop_oneof![4 => Just("GET"), 1 => rare];
    let cluster = prop::sample::select(vec![None, None, Some("api"), Some("to_one.example"), Some("elsewhere")]);
    let header = prop::sample::select(vec![("Authorization", "Bearer mine"), ("X-HTTP-Method-Override", "GET")]);
    let header = prop::option::weighted(0.2, header);
    let connection = prop::sample::select(vec![None, None, None, None, Some(true), Some(true), Some(false)]);
    (base, method, cluster, header, connection, prop::bool::weighted(0.1)).prop_map(
        |(base, method, cluster, header, connection_tls, on_gateway)| Question {
            method: method.to_owned(),
            cluster: cluster.map(str::to_owned),
            headers: base
                .headers
                .iter()
                .cloned()
                .chain(header.map(|(name, value)| (name.to_owned(), value.to_owned())))
                .collect(),
            connection_tls,
            on_gateway,
            ..base
        },
    )
}

#[test]
fn explain_and_the_filter_agree() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 16 * ProptestConfig::default().cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let seen = RefCell::new(BTreeMap::<String, usize>::new());
    let count = |what: &str| *seen.borrow_mut().entry(what.to_owned()).or_default() += 1;
    let questions = prop::collection::vec(question(), 1..8);
    let result = runner.run(&(configuration(), questions), |(text, questions)| {
        let Ok(config) = Config::parse(text.as_bytes(), &variable) else { return Ok(()) };
        for question in questions {
            let explained = explain::of(&config, &question).unwrap();
            count(explained.outcome);
            let calls = explained.exchange.iter().flat_map(|exchange| &exchange.source_calls);
            calls.clone().for_each(|call| count(call.source));
            count(&format!("{} sources", calls.count()));
            explained.problem.iter().for_each(|problem| count(problem.code));
            let shown = format!("{explained:?}");
            prop_assert!(!shown.contains(SECRET));
            agree(&text, &question, &explained);
        }
        Ok(())
    });
    result.unwrap();
    // Each way to handle a request occurs often enough for the comparison to mean something.
    let outcomes = ["unchanged", "pass", "keep", "report", "refuse", "inject", "answer", "env_var_missing"];
    let sources = ["file", "github_actions", "azure_pipelines", "google_metadata", "vault", "oidc_client_credentials"];
    let chains = ["token_exchange", "http", "1 sources", "2 sources", "3 sources"];
    for kind in outcomes.iter().chain(&sources).chain(&chains) {
        assert!(seen.borrow().get(*kind).is_some_and(|count| *count > 20), "{kind}: {seen:?}");
    }
}

const EXAMPLE: &str = r#"{ "entra": { "clusters": ["e", "f"] },
  "destinations": [
    { "hosts": ["graph.microsoft.com"], "path_prefixes": ["/v1.0/users"], "methods": ["GET"], "scope": "https://graph.microsoft.com/.default", "tls_clusters": ["to_{host}"] },
    { "hosts": ["graph.microsoft.com"], "action": "refuse" } ] }"#;

fn example(url: &str, method: &str) -> Explained {
    let question = Question { url: url.to_owned(), method: method.to_owned(), ..Question::default() };
    explain::explain(&[Source::new("f.json", EXAMPLE)], &[], &question).unwrap()
}

#[test]
fn the_rule_that_applies_is_named_with_those_that_do_not() {
    let explained = example("http://graph.microsoft.com/v1.0/users/7", "GET");
    let why: Vec<(&str, bool)> = explained.rules.iter().map(|rule| (rule.path.as_str(), rule.applies)).collect();
    assert_eq!((explained.outcome, why), ("inject", vec![("destinations[0]", true), ("destinations[1]", false)]));
    assert_eq!(explained.assumed_cluster.as_deref(), Some("to_graph.microsoft.com"));
    let refused = example("http://graph.microsoft.com/v1.0/groups", "GET");
    assert_eq!((refused.outcome, refused.problem.unwrap().code), ("refuse", "refused_by_rule"));
    assert!(refused.rules[0].why.contains("another path"));
}

#[test]
fn a_request_that_the_application_encrypts_is_not_explained_as_if_the_filter_saw_it() {
    let question = Question { url: "https://graph.microsoft.com/v1.0/users".to_owned(), ..Question::default() };
    let error = explain::explain(&[Source::new("f.json", EXAMPLE)], &[], &question).unwrap_err();
    assert!(
        error.contains("bypasses the filter: let the application call http://graph.microsoft.com/v1.0/users, "),
        "{error}"
    );
}

#[test]
fn a_value_that_is_not_known_is_named_as_a_placeholder() {
    let text = r#"{ "assertions": [ { "name": "build", "source": "github_actions", "cluster": "github" } ],
        "identities": [ { "name": "a", "client_id": "bbbbbbbb-0000-4000-8000-000000000002" }, { "name": "b", "assertion": "build" } ],
        "destinations": [
            { "hosts": ["a.example"], "identity": "a", "scope": "api://a/.default", "tls_clusters": ["a"] },
            { "hosts": ["b.example"], "identity": "b", "scope": "api://a/.default", "tls_clusters": ["b"] },
            { "hosts": ["c.example"], "identity": "b", "action": "pass" } ] }"#;
    let placeholders = |url: &str, known: &[&str]| {
        let known: Vec<_> =
            known.iter().map(|name| ((*name).to_owned(), "cccccccc-0000-4000-8000-000000000003".to_owned())).collect();
        let question = Question { method: "GET".to_owned(), url: url.to_owned(), ..Question::default() };
        let explained = explain::explain(&[Source::new("c.json", text)], &known, &question).unwrap();
        let line = format!("  placeholders  for {}: --env sets their values\n", explained.placeholders.join(", "));
        assert_eq!(explained.text().contains(&line), !explained.placeholders.is_empty(), "{}", explained.text());
        explained.placeholders
    };
    let of_b = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "ACTIONS_ID_TOKEN_REQUEST_URL"].map(str::to_owned);
    let mut found = placeholders("http://b.example/", &[]);
    found.sort_by_key(|name| of_b.iter().position(|other| other == name));
    // The token of the job is not shown, so it has no placeholder.
    assert_eq!(found, of_b);
    assert_eq!(placeholders("http://a.example/", &[]), ["AZURE_TENANT_ID"]);
    assert!(placeholders("http://a.example/", &["AZURE_TENANT_ID"]).is_empty());
    assert!(placeholders("http://c.example/", &[]).is_empty());
}

#[test]
fn each_call_to_a_source_of_federated_tokens_is_named() {
    let text = r#"{ "assertions": [
            { "name": "sts", "source": "token_exchange", "cluster": "oidc", "authority": "sts.example.com", "path": "/token",
              "subject_token": "projected_token" },
            { "name": "google", "source": "google_metadata", "cluster": "metadata" } ],
        "identities": [ { "name": "a", "assertion": "sts" }, { "name": "b", "assertion": "google" } ],
        "destinations": [
            { "hosts": ["a.example"], "identity": "a", "scope": "api://a/.default", "tls_clusters": ["a"] },
            { "hosts": ["b.example"], "identity": "b", "scope": "api://a/.default", "tls_clusters": ["b"] } ] }"#;
    let lines = |url: &str| {
        let question = Question { method: "GET".to_owned(), url: url.to_owned(), ..Question::default() };
        let explained = explain::explain(&[Source::new("c.json", text)], &[], &question).unwrap();
        explained.text().lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    };
    let chain = lines("http://a.example/");
    assert!(chain.iter().any(|line| line.ends_with("GET / from cluster projected_token: the token for the next call")));
    assert!(
        chain
            .contains(&"POST sts.example.com/token from cluster oidc (token_exchange): the federated token".to_owned())
    );
    let google = "GET metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity?audience=\
                  api%3A%2F%2FAzureADTokenExchange&format=full from cluster metadata (google_metadata): the federated token";
    assert!(lines("http://b.example/").iter().any(|line| line.ends_with(google)));
}

#[test]
fn a_text_that_is_not_a_url_is_refused() {
    let refused = |url: &str| {
        let question = Question { url: url.to_owned(), method: "GET".to_owned(), ..Question::default() };
        explain::explain(&[Source::new("f.json", EXAMPLE)], &[], &question).is_err()
    };
    assert!(refused("") && refused("http://") && refused("http://a b/") && refused("http://a?x"));
    assert!(!refused("graph.microsoft.com/v1.0"));
}
