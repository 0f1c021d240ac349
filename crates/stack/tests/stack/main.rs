//! The stack with a real Envoy: `make envoy` first.

mod clusters;
mod configuration;
mod hosts;
mod starting;
mod stopping;

use serde_json::Value;
use stack::{Options, document, sidecar};

/// A stack whose Envoy has everything but the filter.
fn without_filter() -> Options {
    Options { edit: Some(Box::new(remove_filter)), ..Options::default() }
}

fn remove_filter(envoy: &mut Value) {
    for listener in sidecar::WITH_FILTER {
        let path =
            format!("static_resources.listeners[{listener}].filter_chains[0].filters[0].typed_config.http_filters");
        document::at_mut(envoy, &path).unwrap().as_array_mut().unwrap().remove(0);
    }
}

#[test]
fn a_stack_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<stack::Stack>();
}
