//! An upgrade and a rollback of the module in a running Envoy by ECDS, as in Istio.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fake_entra::Fault;
use serde_json::{Value, json};
use stack::{IMDS_HOST, LISTED_HOST, Options, Request, Stack, document, sidecar};

use super::{assert_clean_log, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] =
    &[("an_upgrade_and_a_rollback_of_the_module_under_load_fail_no_request", a_module_is_replaced)];

/// The name of the extension configuration in all listeners.
const NAME: &str = "entra-exchange";

/// The file from which Envoy discovers the filter's extension configuration.
struct Discovery {
    file: PathBuf,
    filter: Value,
    version: u32,
}

impl Discovery {
    /// Replaces the filter in every listener's filter chain with `config_discovery`.
    fn move_out(document: &mut Value, folder: &Path) -> Self {
        let file = folder.join("extensions.json");
        let filter = sidecar::http_filter(document).unwrap();
        for listener in sidecar::WITH_FILTER {
            let filters =
                format!("static_resources.listeners[{listener}].filter_chains[0].filters[0].typed_config.http_filters");
            let in_chain = document::at_mut(document, &format!("{filters}[{NAME}]")).unwrap();
            *in_chain = json!({"name": NAME, "config_discovery": {
                "config_source": {"resource_api_version": "V3", "path_config_source": {"path": file}},
                "type_urls": [filter["typed_config"]["@type"]],
            }});
        }
        let discovery = Self { file, filter, version: 0 };
        discovery.write();
        discovery
    }

    /// Replaces the running module with this one, and waits until Envoy has loaded it.
    fn replace(&mut self, stack: &Stack, module: &Path) {
        let reloads =
            || stack.envoy.stat(&format!("extension_config_discovery.http_filter.{NAME}.config_reload")).unwrap();
        let before = reloads();
        self.version += 1;
        document::set(&mut self.filter, "typed_config.config.vm_config.code.local.filename", json!(module)).unwrap();
        self.write();
        assert!(stack::eventually(Duration::from_secs(30), || reloads() > before), "{:?}", reloads());
    }

    fn write(&self) {
        let mut extension = self.filter.clone();
        extension["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
        let response = json!({"version_info": self.version.to_string(), "resources": [extension]});
        let next = self.file.with_extension("next");
        fs::write(&next, response.to_string()).unwrap();
        fs::rename(next, &self.file).unwrap();
    }
}

fn imds(resource: &str) -> Request {
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
    Request::get(IMDS_HOST, &path).header("metadata", "true").timeout(Duration::from_secs(60))
}

const CACHED: &str = "https://vault.azure.net";
const SHORT: &str = "https://storage.azure.com";

/// The number of token requests for a resource so far.
fn exchanges(stack: &Stack, resource: &str) -> u64 {
    let counts = stack.directory().stats().by_key;
    counts.iter().filter(|key| key.scope == format!("{resource}/.default")).map(|key| key.count).sum()
}

fn a_module_is_replaced() {
    let (this, next) = (stack::module().unwrap(), stack::next_module().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (path, sender) = (folder.path().to_owned(), std::sync::mpsc::channel());
    let edit = move |document: &mut Value| sender.0.send(Discovery::move_out(document, &path)).unwrap();
    let stack = newest(Options { edit: Some(Box::new(edit)), ..Options::default() });
    let mut discovery = sender.1.recv().unwrap();
    // The tokens for one key have a short lifetime, so that it is refreshed all the time.
    stack.directory().add_faults(vec![Fault::expires_in(15).for_scope(&format!("{SHORT}/.default")).times(u32::MAX)]);

    let (stopped, answered) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let waiting: Vec<String> = (0..4).map(|number| format!("https://slow-{number}.example")).collect();
    for resource in &waiting {
        stack.directory().register_resource(resource);
        let slow = Fault::delay(Duration::from_secs(3)).for_scope(&format!("{resource}/.default"));
        stack.directory().add_faults(vec![slow.times(u32::MAX)]);
    }
    let stack = &stack;
    let token = &|request: &Request| {
        let answer = stack.send_imds(request).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.json()["access_token"].as_str().is_some_and(|token| !token.is_empty()));
        answered.fetch_add(1, Ordering::SeqCst);
    };
    thread::scope(|scope| {
        let stop = Stop(stopped);
        for resource in [CACHED, SHORT] {
            scope.spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    token(&imds(resource));
                }
            });
        }
        scope.spawn(|| {
            while !stopped.load(Ordering::SeqCst) {
                let answer = stack.get(LISTED_HOST, "/", &[]);
                assert!(answer.seen_header("authorization").is_some(), "{}", answer.text());
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        thread::sleep(Duration::from_secs(2));
        // Before each replacement, requests start to wait, and they still wait when it happens.
        for (module, slow) in [(&next, &waiting[0..2]), (&this, &waiting[2..4])] {
            let waiting: Vec<_> =
                slow.iter().cycle().take(20).map(|resource| scope.spawn(move || token(&imds(resource)))).collect();
            thread::sleep(Duration::from_secs(1));
            discovery.replace(stack, module);
            thread::sleep(Duration::from_secs(6));
            for request in waiting {
                request.join().unwrap();
            }
            // The new version has exchanged its own token for this key.
            token(&imds(CACHED));
        }
        drop(stop);
    });
    assert!(answered.load(Ordering::SeqCst) > 100);
    assert_eq!(exchanges(stack, CACHED), 2, "one exchange for each version");
    for resource in &waiting {
        assert!(exchanges(stack, resource) <= 2, "at most one more exchange, by the other version");
    }
    let log = stack.log();
    assert!(log.contains("event=start") && log.contains("+next commit="), "{}", super::filter_log(&log));
    // The running version deletes the shared data of the other version.
    let emptied = || stack.log().contains("event=upgrade outcome=emptied");
    assert!(stack::eventually(Duration::from_secs(150), emptied), "{}", super::filter_log(&stack.log()));
    token(&imds(CACHED));
    assert_eq!(exchanges(stack, CACHED), 2, "its own tokens are kept");
    assert_clean_log(stack);
}

/// Stops the load when dropped, also if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
