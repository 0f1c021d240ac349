//! The fakes reject what the services reject, their tokens are accepted by the fake Entra, and their faults are what they say.

mod aws_sts;
mod azure_pipelines;
mod faults;
mod github;
mod google;
mod json_service;
mod managed_identity;
mod network;
mod spiffe;
mod token_endpoint;
mod vault;

use std::time::{Duration, SystemTime};

use fake_entra::Directory;
use fake_http::{Request, Response};
use fake_sources::Source;
use serde_json::Value;

const TENANT: &str = "3e1f9b3e-5e0b-4d0f-9c55-0c9f5a1b7d21";
const CLIENT: &str = "b1d2c8a4-7f3e-4c6b-8a90-2e5d4f6a7c13";
const AUDIENCE_PARAMETER: &str = "audience=api%3A%2F%2FAzureADTokenExchange";

/// A time that is not the current one: a fake must not have a clock of its own.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).expect("the body is JSON")
}

/// Sends the token of `source` to a fake Entra; the result is `AADSTS…`, or `issued`.
fn exchange(source: &impl Source, token: &str, at: SystemTime) -> String {
    let entra = Directory::new();
    entra.register_resource("https://vault.azure.net");
    source.register(&entra, TENANT, CLIENT).expect("the credential is valid");
    let form = format!(
        "grant_type=client_credentials&client_id={CLIENT}&scope=https://vault.azure.net/.default&client_assertion_type=\
         urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={token}"
    );
    let response = entra.token(TENANT, form.as_bytes(), at);
    match response.status {
        200 => "issued".to_owned(),
        _ => format!("AADSTS{}", json(&response)["error_codes"][0]),
    }
}

/// A change of a valid request: its name, the status and a part of the reason of the rejection, and the change.
type Change<'a> = (&'a str, u16, &'a str, &'a dyn Fn(&mut Request));

/// Checks that `source` accepts the request, and rejects it for this reason after each of these changes.
fn is_strict(source: &impl Source, valid: &Request, changes: &[Change<'_>]) {
    assert!(source.respond(valid, now()).status < 300, "{:?}", source.stats());
    for (name, status, reason, change) in changes {
        let mut request = valid.clone();
        change(&mut request);
        let response = source.respond(&request, now());
        let rejected = source.stats().rejected;
        assert_eq!(response.status, *status, "{name}: {rejected:?}");
        assert!(rejected.last().is_some_and(|last| last.contains(reason)), "{name}: {rejected:?}");
    }
    assert_eq!((source.stats().issued, source.stats().rejected.len()), (1, changes.len()));
}

/// Sets a header to a value; an empty value removes it.
fn set(request: &mut Request, name: &str, value: &str) {
    request.headers.retain(|(existing, _)| existing != name);
    if !value.is_empty() {
        request.headers.push((name.to_owned(), value.to_owned()));
    }
}
