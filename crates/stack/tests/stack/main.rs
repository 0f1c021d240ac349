//! Tests of the stack with a real Envoy. Run `make envoy` first.

mod clusters;
mod configuration;
mod hosts;
mod starting;
mod stopping;

use serde_json::Value;
use stack::{Options, document, sidecar};

/// Options of a stack whose Envoy runs without the filter.
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
fn threads_can_share_a_stack() {
    fn shared<T: Send + Sync>() {}
    shared::<stack::Stack>();
}
