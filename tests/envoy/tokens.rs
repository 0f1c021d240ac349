//! The cache, the refresh and the exchange of tokens in a real Envoy with several workers.

use std::thread;
use std::time::{Duration, Instant};

use fake_entra::Fault;
use serde_json::json;
use stack::{IMDS_HOST, LISTED_HOST, Options, Request, Response, Stack};

use super::{assert_clean_log, newest, trap};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("no_request_fails_while_entra_is_down_and_the_cached_token_is_valid", no_request_fails_while_entra_is_down),
    (
        "two_thousand_concurrent_requests_without_a_cached_token_share_one_exchange",
        two_thousand_requests_share_an_exchange,
    ),
    ("a_slow_exchange_delays_no_other_token", a_slow_exchange_delays_no_other_token),
    ("two_hundred_requests_that_entra_rejects_cause_one_exchange", two_hundred_rejected_requests_share_an_exchange),
    ("a_token_that_the_upstream_rejects_is_replaced_once", a_rejected_token_is_replaced),
    ("a_rejected_token_is_sent_by_no_worker_once_another_has_a_newer_one", a_rejected_token_leaves_every_worker),
    ("a_warm_token_is_fetched_before_the_first_request", a_warm_token_is_fetched_before_the_first_request),
    ("the_filter_uses_the_next_cluster_for_entra_if_one_cannot_connect", the_next_cluster_for_entra_is_used),
    ("on_failure_pass_forwards_a_request_unchanged", on_failure_pass_forwards_a_request_unchanged),
    ("a_configuration_pushed_under_load_fails_no_request", a_push_under_load_fails_no_request),
    ("prometheus_shows_the_tags_of_metrics_as_labels", metrics_have_their_tags),
    ("the_reason_for_a_rejection_is_in_details_access_log_metric_and_log", the_reason_for_a_rejection_is_recorded),
    (
        "with_log_access_the_access_log_shows_the_outcome_of_every_handled_request",
        log_access_records_every_handled_request,
    ),
    ("the_status_page_shows_the_state_of_tokens_without_the_tokens", the_status_page_shows_the_state_of_tokens),
    ("a_lease_holder_that_stops_responding_delays_others_until_its_lease_expires", a_dead_lease_holder_delays_others),
    ("a_request_in_a_crashed_vm_ends_by_the_idle_timeout_and_others_are_served", a_crashed_vm_affects_no_other_request),
    ("two_configurations_in_one_vm_behave_apart", two_configurations_in_one_vm_behave_apart),
];

fn four_workers() -> Stack {
    newest(Options { concurrency: 4, ..Options::default() })
}

/// A stack with the destination of the sidecar's manifest and these additional fields.
fn configured(more: &serde_json::Value) -> Stack {
    let configuration = super::scenarios::destination(more).to_string();
    newest(Options { concurrency: 4, configuration: Some(configuration), ..Options::default() })
}

fn imds(resource: &str) -> Request {
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
    Request::get(IMDS_HOST, &path).header("metadata", "true").timeout(Duration::from_secs(60))
}

/// Sends these requests concurrently, each on its own connection.
fn at_once(stack: &Stack, requests: &[Request]) -> Vec<Response> {
    thread::scope(|scope| {
        let sent: Vec<_> = requests.iter().map(|request| scope.spawn(|| stack.send_imds(request).unwrap())).collect();
        sent.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

fn token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// The token's lifetime is 120 s; Entra is down from second 50 to second 100.
fn no_request_fails_while_entra_is_down() {
    let stack = four_workers();
    stack.directory().add_faults(vec![Fault::expires_in(120)]);
    let started = Instant::now();
    let mut down = false;
    let mut tokens = std::collections::BTreeSet::new();
    while started.elapsed() < Duration::from_secs(115) {
        let second = started.elapsed().as_secs();
        if !down && (50..100).contains(&second) {
            stack.directory().add_faults(vec![Fault::status(500).times(u32::MAX)]);
            down = true;
        } else if down && second >= 100 {
            stack.directory().reset();
            down = false;
        }
        let answer = stack.get(LISTED_HOST, "/", &[]);
        assert_eq!(answer.status, 200, "second {second}: {}", answer.text());
        tokens.insert(answer.seen_header("authorization").unwrap());
        thread::sleep(Duration::from_millis(100));
    }
    assert!(tokens.len() >= 2, "the filter got another token after the outage");
    assert_clean_log(&stack);
}

fn two_thousand_requests_share_an_exchange() {
    let stack = four_workers();
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(2))]);
    let answers = at_once(&stack, &vec![imds("https://vault.azure.net"); 2000]);
    let first = token(&answers[0]);
    assert!(answers.iter().all(|answer| token(answer) == first));
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_clean_log(&stack);
}

fn a_slow_exchange_delays_no_other_token() {
    let mut configuration = super::scenarios::destination(&json!({}));
    let limits = json!({"unlisted_scopes": 100, "new_scopes_per_minute": 100, "parallel_exchanges": 100});
    configuration["managed_identity"] = json!({"imds": {}, "limits": limits});
    let configuration = Some(configuration.to_string());
    let stack = newest(Options { concurrency: 4, configuration, ..Options::default() });
    token(&stack.send_imds(&imds("https://vault.azure.net")).unwrap());
    let slow = "https://storage.azure.com";
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(5)).for_scope(&format!("{slow}/.default"))]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| stack.send_imds(&imds(slow)).unwrap());
        thread::sleep(Duration::from_millis(200));
        for _ in 0..20 {
            token(&stack.send_imds(&imds("https://vault.azure.net")).unwrap());
        }
        assert!(!waiting.is_finished(), "requests for the cached token waited for the slow exchange");
        token(&waiting.join().unwrap());
    });
    // Fifty exchanges of one second each: sequentially, they would exceed the time that a request may wait.
    let resources: Vec<String> = (0..50).map(|number| format!("https://resource-{number}.example")).collect();
    for resource in &resources {
        stack.directory().register_resource(resource);
    }
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(1)).times(50)]);
    let requests: Vec<Request> = resources.iter().map(|resource| imds(resource)).collect();
    for answer in at_once(&stack, &requests) {
        token(&answer);
    }
    assert_eq!(stack.directory().stats().token_requests, 52);
}

fn two_hundred_rejected_requests_share_an_exchange() {
    let stack = newest(
        Options { concurrency: 4, ..Options::default() }
            .variable("AZURE_TENANT_ID", Some("00000000-0000-4000-8000-000000000000")),
    );
    for _ in 0..10 {
        for answer in at_once(&stack, &vec![imds("https://vault.azure.net"); 20]) {
            assert_eq!(answer.status, 400);
            assert!(answer.text().contains("AADSTS90002"), "{}", answer.text());
        }
    }
    assert_eq!(stack.directory().stats().token_requests, 1);
}

fn a_rejected_token_is_replaced() {
    let stack = newest(Options { concurrency: 1, ..Options::default() });
    let seen = |path: &str| stack.get(LISTED_HOST, path, &[]).seen_header("authorization").unwrap();
    let first = seen("/");
    assert_eq!(seen("/status/403"), first);
    assert_eq!(seen("/status/401"), first);
    // The rejected token is used until a new one arrives.
    let replaced = stack::eventually(Duration::from_secs(10), || seen("/") != first);
    assert!(replaced, "the filter still sends the rejected token");
    let second = seen("/");
    // Another forced refresh within thirty seconds is not allowed.
    assert_eq!(seen("/status/401"), second);
    assert_eq!(seen("/"), second);
    assert_eq!(stack.directory().stats().token_requests, 2);
    assert_clean_log(&stack);
}

fn a_rejected_token_leaves_every_worker() {
    let stack = newest(Options { concurrency: 2, ..Options::default() });
    let seen = |path: &str| stack.get(LISTED_HOST, path, &[]).seen_header("authorization").unwrap();
    let first = seen("/");
    // Each request has a connection of its own, so both workers get some.
    assert!((0..32).all(|_| seen("/") == first));
    assert_eq!(seen("/status/401"), first);
    let replaced = stack::eventually(Duration::from_secs(10), || seen("/") != first);
    assert!(replaced, "the filter still sends the rejected token");
    std::thread::sleep(Duration::from_secs(1));
    let after: Vec<String> = (0..32).map(|_| seen("/")).collect();
    assert!(!after.contains(&first), "a worker sends the rejected token after the other one has a newer one");
    assert_eq!(stack.directory().stats().token_requests, 2);
    assert_clean_log(&stack);
}

fn a_warm_token_is_fetched_before_the_first_request() {
    let stack = configured(&json!({"warm": true}));
    let fetched = stack::eventually(Duration::from_secs(10), || stack.directory().stats().issued == 1);
    assert!(fetched, "{}", super::filter_log(&stack.log()));
    stack.get(LISTED_HOST, "/", &[]);
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_clean_log(&stack);
}

fn the_next_cluster_for_entra_is_used() {
    let mut configuration = super::scenarios::destination(&json!({}));
    configuration["entra"] = json!({"clusters": ["dead", "entra"]});
    let edit = |document: &mut serde_json::Value| {
        // A local port without a listener.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
        let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        let dead = json!({"name": "dead", "load_assignment": {"cluster_name": "dead", "endpoints": endpoints}});
        document["static_resources"]["clusters"].as_array_mut().unwrap().push(dead);
    };
    let stack = newest(Options {
        configuration: Some(configuration.to_string()),
        edit: Some(Box::new(edit)),
        ..Options::default()
    });
    assert!(stack.get(LISTED_HOST, "/", &[]).seen_header("authorization").is_some());
    // After a response from Entra, of any kind, the filter does not retry through another cluster.
    stack.directory().add_faults(vec![Fault::status(503)]);
    assert_eq!(stack.directory().stats().token_requests, 1);
}

fn on_failure_pass_forwards_a_request_unchanged() {
    let stack = configured(&json!({"on_failure": "pass", "existing_credential": "replace", "plaintext": "allow"}));
    stack.directory().add_faults(vec![Fault::status(503)]);
    let own = [("authorization", "SharedKey x")];
    assert_eq!(stack.get(LISTED_HOST, "/", &own).seen_header("authorization").unwrap(), "SharedKey x");
    let stack = configured(&json!({"on_failure": "pass", "tls_clusters": ["another"]}));
    assert_eq!(stack.get(LISTED_HOST, "/", &[]).status, 403, "a rejection by policy is not a failure");
}

fn a_push_under_load_fails_no_request() {
    let stack = newest(Options { lds: true, concurrency: 4, ..Options::default() });
    let stopped = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut sent = 0;
                    while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                        let answer = stack.get(LISTED_HOST, "/", &[]);
                        assert!(answer.seen_header("authorization").is_some(), "{}", answer.text());
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        for wait in ["14s", "13s", "12s"] {
            let mut configuration = super::scenarios::destination(&json!({}));
            configuration["limits"] = json!({"wait": wait});
            stack.push_configuration(&configuration.to_string()).unwrap();
        }
        stopped.store(true, std::sync::atomic::Ordering::SeqCst);
        for thread in load {
            assert!(thread.join().unwrap() > 0);
        }
    });
    assert_eq!(stack.directory().stats().token_requests, 1, "the new configuration uses the cached token");
}

fn metrics_have_their_tags() {
    let stack = newest(Options::default());
    stack.get(LISTED_HOST, "/", &[]);
    stack.get(LISTED_HOST, "/", &[("authorization", "x")]);
    let mut found = String::new();
    let complete = stack::eventually(Duration::from_secs(10), || {
        let all = stack.envoy.admin("/stats/prometheus?filter=entra_exchange").unwrap();
        let mut ours: Vec<&str> = all.lines().filter(|line| line.starts_with("entra_exchange")).collect();
        // Times and their buckets differ from run to run.
        ours.retain(|line| !line.contains("_bucket") && !line.contains("_sum"));
        ours.sort_unstable();
        found = ours.join("\n");
        found.contains("entra_exchange_exchange_ms_count{} 1")
    });
    assert!(complete, "{found}");
    let of_time = |name: &str| format!("entra_exchange_{name}_timestamp_seconds{{identity=\"default\"}} 1");
    let expiry = of_time("token_expiry");
    let (federated_issued, federated_expiry) = (of_time("federated_token_issued"), of_time("federated_token_expiry"));
    // Their values differ from day to day and from build to build.
    let (build, hash) =
        ("entra_exchange_build_info{version=\"0.1.0\",commit=\"", "entra_exchange_configuration_hash{} ");
    let varying = [&expiry, &federated_issued, &federated_expiry, build, hash];
    let found: Vec<&str> =
        found.lines().map(|line| varying.into_iter().find(|start| line.starts_with(start)).unwrap_or(line)).collect();
    assert_eq!(
        found,
        [
            "entra_exchange_assertion_reads_total{outcome=\"read\",source=\"file\"} 1",
            build,
            hash,
            "entra_exchange_exchange_ms_count{} 1",
            "entra_exchange_exchanges_total{identity=\"default\",outcome=\"issued\",class=\"none\"} 1",
            "entra_exchange_failures_in_a_row{identity=\"default\"} 0",
            &federated_expiry,
            &federated_issued,
            "entra_exchange_leases{} 0",
            "entra_exchange_new_scopes_total{identity=\"default\"} 1",
            "entra_exchange_requests_total{identity=\"default\",outcome=\"injected\"} 1",
            "entra_exchange_requests_total{identity=\"default\",outcome=\"kept\"} 1",
            "entra_exchange_requests_total{identity=\"default\",outcome=\"waited\"} 1",
            &expiry,
            "entra_exchange_wait_ms_count{} 1",
            "entra_exchange_waiters{} 0",
        ]
    );
}

/// The lines of the manifest's access log, as JSON.
fn access_log(stack: &Stack) -> Vec<serde_json::Value> {
    stack
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(serde_json::Value::is_object)
        .collect()
}

fn the_reason_for_a_rejection_is_recorded() {
    let mut configuration = super::scenarios::destination(&json!({}));
    let refuse = json!({"hosts": [stack::UNLISTED_HOST], "action": "refuse"});
    configuration["destinations"].as_array_mut().unwrap().push(refuse);
    // Each worker limits its own log lines.
    let options = Options { configuration: Some(configuration.to_string()), concurrency: 1, ..Options::default() };
    let stack = newest(options);
    for path in ["/one?sig=secret-signature", "/two"] {
        assert_eq!(stack.get(stack::UNLISTED_HOST, path, &[]).status, 403);
    }
    stack.get(LISTED_HOST, "/three", &[]);
    let found = stack::eventually(Duration::from_secs(15), || access_log(&stack).len() == 3);
    let lines = access_log(&stack);
    assert!(found, "{lines:?}");
    let rejected = lines.iter().find(|line| line["path"] == "/one").unwrap();
    assert_eq!(rejected["details"], "entra_exchange{refused_by_rule}");
    assert_eq!(rejected["entra_exchange"], "outcome=refused identity=unknown code=refused_by_rule");
    let injected = lines.iter().find(|line| line["path"] == "/three").unwrap();
    assert_eq!(
        injected["entra_exchange"],
        serde_json::Value::Null,
        "only rejected requests set the filter state by default"
    );
    let log = stack.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("event=request")).collect();
    assert_eq!(warnings.len(), 1, "one line per minute: {warnings:?}");
    let expected = format!(
        "event=request outcome=refused code=refused_by_rule status=403 identity=unknown decided_by=destinations[1] host={} detail=",
        stack::UNLISTED_HOST
    );
    assert!(warnings[0].contains("warning") && warnings[0].contains(&expected), "{}", warnings[0]);
    assert!(!log.contains("secret-signature"));
    let series = "entra_exchange_requests_total{identity=\"unknown\",outcome=\"refused\",code=\"refused_by_rule\"} 2";
    let counted = || stack.envoy.admin("/stats/prometheus?filter=entra_exchange").is_ok_and(|all| all.contains(series));
    assert!(stack::eventually(Duration::from_secs(15), counted), "{series}");
}

fn log_access_records_every_handled_request() {
    let mut configuration = super::scenarios::destination(&json!({}));
    configuration["log"] = json!({"access": true});
    let stack = newest(Options { configuration: Some(configuration.to_string()), ..Options::default() });
    stack.get(LISTED_HOST, "/", &[]);
    stack.get(stack::UNLISTED_HOST, "/", &[]);
    let found = stack::eventually(Duration::from_secs(15), || access_log(&stack).len() == 2);
    let lines = access_log(&stack);
    assert!(found, "{lines:?}");
    let of = |host: &str| lines.iter().find(|line| line["host"] == host).unwrap()["entra_exchange"].clone();
    assert_eq!(of(LISTED_HOST), "outcome=injected identity=default");
    assert_eq!(of(stack::UNLISTED_HOST), serde_json::Value::Null, "the filter does not handle this host");
}

fn the_status_page_shows_the_state_of_tokens() {
    let mut configuration = super::scenarios::destination(&json!({}));
    configuration["managed_identity"] = json!({"imds": {}});
    configuration["status"] = json!({});
    let stack = newest(Options { configuration: Some(configuration.to_string()), ..Options::default() });
    let issued = stack.get(LISTED_HOST, "/", &[]).seen_header("authorization").unwrap();
    assert_eq!(stack.send_imds(&imds("https://nobody-registered.example")).unwrap().status, 400);
    let status =
        |method: &str| stack.send_imds(&Request::new(method, "127.0.0.1:15002", "/entra-exchange/status")).unwrap();
    let answer = status("GET");
    let shown = answer.json();
    assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
    let accepted = format!("outcome=accepted sha256={}", shown["configuration"]["sha256"].as_str().unwrap());
    assert_eq!(stack.log().matches(&accepted).count(), 1, "only the first VM logs the configuration");
    let key = |place: usize| ["identity", "scope", "state"].map(|name| shown["keys"][place][name].as_str().unwrap());
    assert_eq!(key(0), ["default", "https://nobody-registered.example/.default", "failing"]);
    assert_eq!(shown["keys"][0]["last_problem"]["aadsts"], "AADSTS500011");
    assert_eq!(key(1), ["default", "https://vault.azure.net/.default", "fresh"]);
    assert!(shown["keys"][1]["token"]["usable_for_s"].as_u64().unwrap() > 3000);
    assert!(!answer.text().contains(issued.trim_start_matches("Bearer ")) && !answer.text().contains("eyJ"));
    let posted = status("POST");
    assert_eq!((posted.status, posted.header("allow").as_deref()), (405, Some("GET")));
    assert_clean_log(&stack);
}

/// Removes capabilities from the filter in the listener for managed identity. With its different configuration, it gets its own VMs there,
/// which share tokens and leases with the others, because the `vm_id` is the same.
fn without_capabilities(names: &'static [&str]) -> stack::Edit {
    Box::new(move |document| {
        let filter = stack::sidecar::filter(stack::sidecar::MANAGED_IDENTITY);
        let list = stack::document::at_mut(document, &format!("{filter}.capability_restriction_config")).unwrap();
        for name in names {
            list["allowed_capabilities"].as_object_mut().unwrap().remove(*name).unwrap();
        }
    })
}

/// In one listener the module acquires the lease, and Envoy then delivers neither responses nor ticks to it.
fn a_dead_lease_holder_delays_others() {
    let edit = without_capabilities(&["proxy_on_http_call_response", "proxy_on_tick"]);
    let stack = newest(Options { concurrency: 4, edit: Some(edit), ..Options::default() });
    let mut dead = std::net::TcpStream::connect(stack.imds_addr()).unwrap();
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    std::io::Write::write_all(
        &mut dead,
        format!("GET {path} HTTP/1.1\r\nhost: {IMDS_HOST}\r\nmetadata: true\r\n\r\n").as_bytes(),
    )
    .unwrap();
    let leads = || stack.envoy.admin("/stats?filter=entra_exchange_leases").is_ok_and(|stats| stats.contains(": 1"));
    assert!(stack::eventually(Duration::from_secs(10), leads), "the module has not acquired the lease");
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| stack.get(LISTED_HOST, "/", &[]))).collect();
        for answer in waiting {
            assert!(answer.join().unwrap().seen_header("authorization").is_some());
        }
    });
    assert_eq!(stack.directory().stats().token_requests, 1);
}

/// In one listener the module traps while it holds the lease, when the federated token arrives.
fn a_crashed_vm_affects_no_other_request() {
    let mut document = stack::sidecar::document().unwrap();
    for listener in stack::sidecar::WITH_FILTER {
        let manager = format!("static_resources.listeners[{listener}].filter_chains[0].filters[0].typed_config");
        let timeout = &stack::document::at_mut(&mut document, &manager).unwrap()["stream_idle_timeout"];
        assert_eq!(*timeout, "60s", "the manifest sets the safety net in {listener}");
    }
    let module = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("trapping.wasm");
    let shipped = std::fs::read(stack::root().join("dist/entra-exchange.wasm")).unwrap();
    std::fs::write(&module, trap::in_callback(&shipped, "proxy_on_http_call_response")).unwrap();
    let edit = move |document: &mut serde_json::Value| {
        let filter = stack::sidecar::filter(stack::sidecar::MANAGED_IDENTITY);
        let code = format!("{filter}.vm_config.code.local.filename");
        stack::document::set(document, &code, module.display().to_string()).unwrap();
        let timeout =
            "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config.stream_idle_timeout";
        stack::document::set(document, timeout, "5s").unwrap();
    };
    let stack = newest(Options { concurrency: 4, edit: Some(Box::new(edit)), ..Options::default() });
    thread::scope(|scope| {
        let trapped = scope.spawn(|| stack.send_imds(&imds("https://vault.azure.net")).unwrap());
        let traps = || stack.log().contains("Function: proxy_on_http_call_response");
        assert!(stack::eventually(Duration::from_secs(10), traps), "{}", super::filter_log(&stack.log()));
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| stack.get(LISTED_HOST, "/", &[]))).collect();
        for answer in waiting {
            assert!(answer.join().unwrap().seen_header("authorization").is_some());
        }
        assert!(!trapped.is_finished(), "nothing but the idle timeout ends a request in a crashed VM");
        let started = Instant::now();
        // Envoy's 504 passes through the failed filter, which turns it into a 503.
        assert_eq!(trapped.join().unwrap().status, 503);
        assert!(started.elapsed() < Duration::from_secs(30));
    });
}

/// One listener gets another configuration. Its root context is in the VM of the other listeners, because the VM's settings are the same.
fn two_configurations_in_one_vm_behave_apart() {
    let edit = |document: &mut serde_json::Value| {
        let path = stack::sidecar::configuration_path(stack::sidecar::MANAGED_IDENTITY);
        let text = stack::document::at_mut(document, &path).unwrap();
        let mut configuration: serde_json::Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        configuration["identities"] = json!([{"name": "default", "resources": ["https://storage.azure.com"]}]);
        configuration.as_object_mut().unwrap().remove("destinations").unwrap();
        *text = json!(configuration.to_string());
    };
    let stack = newest(Options { concurrency: 1, edit: Some(Box::new(edit)), ..Options::default() });
    // The VM from which Envoy makes the others, that of the main thread, and that of the worker.
    assert_eq!(stack.envoy.stat("wasm.envoy.wasm.runtime.v8.active").unwrap(), Some(3));

    let injected = || stack.get(LISTED_HOST, "/", &[]).seen_header("authorization").is_some();
    let answered = |resource: &str| stack.send_imds(&imds(resource)).unwrap();
    thread::scope(|scope| {
        // Requests of both wait for their tokens at the same time.
        let waiting = scope.spawn(|| answered("https://storage.azure.com"));
        assert!(injected());
        assert_eq!(waiting.join().unwrap().status, 200);
    });
    for _ in 0..10 {
        assert!(injected());
        assert_eq!(answered("https://storage.azure.com").status, 200);
        // The first configuration's token for this resource is in the VM, and the second does not offer it.
        assert_eq!(answered("https://vault.azure.net").json()["error"], "invalid_resource");
    }
    assert_eq!(stack.directory().stats().token_requests, 2);
}
