//! Each alert is made to fire by really causing its condition, and to stop by curing it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fake_entra::Fault;
use serde_json::json;
use stack::{AUDIENCE, CLIENT_ID, HEALTH_HOST, IMDS_HOST, LISTED_HOST, NAMESPACE, SERVICE_ACCOUNT};
use stack::{Options, Request, Stack, UNLISTED_HOST, eventually};

use crate::dashboard;
use crate::prometheus::Prometheus;
use crate::rules::{alerts, shortened};

/// The client of an identity that is used at an unusual hour only.
const NIGHT: &str = "22222222-0000-4000-8000-000000000001";
/// The client of an identity whose callers ask for more and more resources.
const INVENTOR: &str = "22222222-0000-4000-8000-000000000002";
/// A client that Entra does not know.
const UNKNOWN: &str = "22222222-0000-4000-8000-000000000003";

/// How long anything may take to show in Prometheus.
const PATIENCE: Duration = Duration::from_secs(60);

fn configuration() -> String {
    let identity = |name: &str, client: &str| json!({"name": name, "client_id": client});
    json!({
        "identities": [
            identity("default", CLIENT_ID), identity("night", NIGHT), identity("inventor", INVENTOR), identity("unknown", UNKNOWN),
        ],
        "destinations": [
            {"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"], "identity": "default"},
            {"hosts": [UNLISTED_HOST], "action": "refuse"},
        ],
        "managed_identity": {
            "identities": ["default", "night", "inventor", "unknown"], "default_identity": "default",
            "imds": {}, "health": {"hosts": [HEALTH_HOST], "identities": ["unknown"]},
            "limits": {"unlisted_scopes": 20, "new_scopes_per_minute": 20, "parallel_exchanges": 4},
        },
        // No request waits for an exchange that backs off.
        "limits": {"exchange": "10s"},
    })
    .to_string()
}

struct Scene {
    stack: Stack,
    prometheus: Prometheus,
    began: Instant,
}

impl Scene {
    fn start() -> Self {
        let stack =
            Stack::start(Options { concurrency: 2, configuration: Some(configuration()), ..Options::default() })
                .unwrap_or_else(|error| panic!("{error}"));
        for client in [NIGHT, INVENTOR] {
            stack.directory().register_credential(stack::credential(client)).unwrap();
        }
        let prometheus = Prometheus::start(stack.envoy.admin_addr(), &shortened());
        Self { stack, prometheus, began: Instant::now() }
    }

    fn imds(&self, client: &str, resource: &str) -> u16 {
        let path =
            format!("/metadata/identity/oauth2/token?api-version=2018-02-01&client_id={client}&resource={resource}");
        let request = Request::get(IMDS_HOST, &path).header("metadata", "true").timeout(PATIENCE);
        self.stack.send_imds(&request).unwrap().status
    }

    fn probe(&self) -> u16 {
        self.stack.send_health(&Request::get(HEALTH_HOST, "/readyz")).unwrap().status
    }

    /// A new resource, which Entra knows.
    fn resource(&self, name: &str) -> String {
        let resource = format!("https://{name}.example");
        self.stack.directory().register_resource(&resource);
        resource
    }

    /// Causes something again and again until the alert fires, and then waits, after the cure, until it stops.
    fn fires_and_stops(&self, alert: &str, cause: impl Fn() + Sync, cure: impl Fn()) {
        assert!(
            !self.prometheus.fires(alert),
            "{alert} fires before anything is wrong: {:?}",
            self.prometheus.firing()
        );
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    cause();
                }
            });
            let fires = eventually(PATIENCE, || self.prometheus.fires(alert));
            over.store(true, Ordering::SeqCst);
            assert!(fires, "{alert} does not fire; firing are {:?}", self.prometheus.firing());
        });
        cure();
        let stops = eventually(2 * PATIENCE, || !self.prometheus.fires(alert));
        assert!(stops, "{alert} does not stop");
        println!("{:>4} s: {alert} fired and stopped", self.began.elapsed().as_secs());
    }
}

/// The scope of a resource, as the filter asks Entra for it.
fn scope(resource: &str) -> String {
    format!("{resource}/.default")
}

fn pause() {
    thread::sleep(Duration::from_millis(50));
}

#[test]
#[ignore = "takes six minutes, and needs Prometheus: make test-observe"]
fn every_alert_fires_when_its_condition_is_caused_and_stops_when_it_is_cured_and_no_panel_is_empty() {
    let scene = Scene::start();
    let stack = &scene.stack;
    let mut seen: Vec<&str> = Vec::new();
    let mut fired = |alert: &'static str| seen.push(alert);

    // A day later by the factor, this identity has not been used at this hour of the day before.
    assert_eq!(scene.imds(NIGHT, "https://vault.azure.net"), 200);
    let known_at = Instant::now();
    assert_eq!(stack.get(LISTED_HOST, "/", &[]).status, 200);

    let refused = || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).status, 403));
            }
        });
    };
    let alert = "EntraExchangeRejectionBurst";
    scene.fires_and_stops(alert, refused, || {});
    fired(alert);

    let alert = "EntraExchangeRequestsRejected";
    scene.fires_and_stops(
        alert,
        || {
            stack.get(UNLISTED_HOST, "/", &[]);
            pause()
        },
        || {},
    );
    fired(alert);

    let alert = "EntraExchangeUpstreamRejectsTokens";
    scene.fires_and_stops(
        alert,
        || {
            stack.get(LISTED_HOST, "/status/401", &[]);
            pause()
        },
        || {},
    );
    fired(alert);

    // Prometheus, which begins to scrape some seconds after its start, knows the process for longer than an hour by now.
    thread::sleep(Duration::from_secs(25).saturating_sub(scene.began.elapsed()));
    let new = scene.resource("new");
    let alert = "EntraExchangeNewScope";
    scene.fires_and_stops(
        alert,
        || {
            scene.imds(CLIENT_ID, &new);
            pause()
        },
        || {},
    );
    fired(alert);

    let slow = scene.resource("slow");
    let waiting = || {
        stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(4)).for_scope(&scope(&slow))]);
        thread::scope(|scope| {
            for _ in 0..150 {
                scope.spawn(|| scene.imds(CLIENT_ID, &slow));
            }
        });
    };
    let alert = "EntraExchangeRequestsWaiting";
    scene.fires_and_stops(alert, waiting, || stack.directory().reset());
    fired(alert);

    let number = std::sync::atomic::AtomicU32::new(0);
    let invent = || {
        let number = number.fetch_add(1, Ordering::SeqCst);
        scene.imds(INVENTOR, &format!("https://invented-{number}.example"));
        pause();
    };
    let alert = "EntraExchangeCallerScopesAtLimit";
    scene.fires_and_stops(alert, invent, || {});
    fired(alert);

    let failing = scene.resource("failing");
    stack.directory().add_faults(vec![Fault::status(500).for_scope(&scope(&failing)).times(u32::MAX)]);
    let again = || {
        scene.imds(CLIENT_ID, &failing);
        pause()
    };
    let cured = || {
        stack.directory().reset();
        assert!(eventually(PATIENCE, || scene.imds(CLIENT_ID, &failing) == 200));
    };
    let alert = "EntraExchangeFailing";
    scene.fires_and_stops(alert, again, cured);
    fired(alert);

    // Entra does not know the client: a probe finds the pod not ready, until somebody creates it.
    let alert = "EntraExchangeNeedsChange";
    let ask = || {
        scene.imds(UNKNOWN, "https://vault.azure.net");
        pause()
    };
    scene.fires_and_stops(alert, ask, || {});
    fired(alert);
    let alert = "EntraExchangeNotReady";
    let created = || {
        stack.directory().register_credential(stack::credential(UNKNOWN)).unwrap();
        assert!(eventually(2 * PATIENCE, || scene.imds(UNKNOWN, "https://vault.azure.net") == 200));
        assert_eq!(scene.probe(), 200);
    };
    scene.fires_and_stops(
        alert,
        || {
            scene.probe();
            pause()
        },
        created,
    );
    fired(alert);

    // A token that expires soon, until another one takes its place.
    let short = scene.resource("short");
    stack.directory().add_faults(vec![Fault::expires_in(170).for_scope(&scope(&short))]);
    let replaced = || {
        let path = format!(
            "/metadata/identity/oauth2/token?api-version=2018-02-01&client_id={CLIENT_ID}&resource={short}&bypass_cache=true"
        );
        let request = Request::get(IMDS_HOST, &path).header("metadata", "true");
        assert_eq!(stack.send_imds(&request).unwrap().status, 200);
    };
    let alert = "EntraExchangeTokenExpiring";
    scene.fires_and_stops(
        alert,
        || {
            scene.imds(CLIENT_ID, &short);
            pause()
        },
        replaced,
    );
    fired(alert);

    // The kubelet does not renew the federated token; when it does, the filter notices by itself.
    let issued_at = SystemTime::now() - Duration::from_secs(3500);
    let old =
        stack.issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, AUDIENCE, issued_at, Duration::from_secs(3600));
    stack.rotate_token_with(&old).unwrap();
    thread::sleep(Duration::from_secs(1));
    let read = scene.resource("read");
    let alert = "EntraExchangeFederatedTokenNotRenewed";
    scene.fires_and_stops(
        alert,
        || {
            scene.imds(CLIENT_ID, &read);
            pause()
        },
        || {
            stack.rotate_token().unwrap();
        },
    );
    fired(alert);

    let empty = dashboard::empty_panels(&scene.prometheus);
    let alert = "EntraExchangeUseAtUnusualHour";
    thread::sleep(Duration::from_secs(300).saturating_sub(known_at.elapsed()));
    scene.fires_and_stops(
        alert,
        || {
            scene.imds(NIGHT, "https://vault.azure.net");
            pause()
        },
        || {},
    );
    fired(alert);

    seen.sort_unstable();
    let mut all = alerts();
    all.sort();
    assert_eq!(seen, all);
    assert!(empty.is_empty(), "{empty:?}");
}
