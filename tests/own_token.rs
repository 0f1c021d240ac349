//! A request that passes the filter again, after an internal redirect: the headers of the first time are still there.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sidecar;

use std::time::Duration;

use serde_json::json;
use sidecar::{ENTRA_CLUSTER, TOKEN_CLUSTER, simple, to_imds, unsigned_assertion};
use stack::{LISTED_HOST, UNLISTED_HOST};
use wasm_host::{Headers, Host, Request, Response, StreamState};

/// A worker, whose every exchange gives another token with a lifetime of an hour.
struct Worker {
    host: Host,
    exchanges: usize,
}

impl Worker {
    fn new() -> Self {
        Self { host: sidecar::builder(&sidecar::module()).workers(1).start().unwrap(), exchanges: 0 }
    }

    fn serve(&mut self) {
        let Self { host, exchanges } = self;
        simple::serve(host, |call| {
            let response = match call.cluster.as_str() {
                TOKEN_CLUSTER => Response::new(200, unsigned_assertion(host)),
                ENTRA_CLUSTER => {
                    *exchanges += 1;
                    let token = format!("eyJhY2Nlc3M.token{exchanges}.c2ln");
                    let answer = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token});
                    Response::new(200, answer.to_string())
                }
                other => panic!("unexpected call to the cluster {other}"),
            };
            host.respond(call, response);
        });
    }

    /// Sends a request and returns the headers with which it is forwarded.
    fn send(&mut self, request: Request) -> Headers {
        let stream = self.host.worker(0).request(request);
        self.serve();
        let state = stream.state();
        stream.end();
        let StreamState::Forwarded(forwarded) = state else { panic!("{state:?}") };
        forwarded.headers
    }

    fn get(&mut self, host: &str) -> Headers {
        self.send(Request::new(Headers::get_request(host, "/")))
    }
}

/// The request to `host` that Envoy makes of a request with these headers when the upstream redirects it.
fn redirected(headers: &Headers, host: &str) -> Request {
    again(headers, host, &[("x-envoy-original-url", "http://payments-kv.vault.azure.net/")])
}

fn again(headers: &Headers, host: &str, more: &[(&str, &str)]) -> Request {
    let mut headers = headers.clone();
    headers.replace(":authority", host);
    more.iter().for_each(|(name, value)| headers.replace(name, value));
    Request::new(headers)
}

fn token(headers: &Headers) -> Option<String> {
    headers.text("authorization")
}

fn numbered(number: usize) -> Option<String> {
    Some(format!("Bearer eyJhY2Nlc3M.token{number}.c2ln"))
}

#[test]
fn a_redirect_to_an_unlisted_host_does_not_carry_the_token_and_to_a_listed_one_it_is_replaced() {
    let mut worker = Worker::new();
    let first = worker.get(LISTED_HOST);
    assert_eq!(token(&first), numbered(1));
    assert_eq!(token(&worker.send(redirected(&first, UNLISTED_HOST))), None);
    assert_eq!(token(&worker.send(redirected(&first, LISTED_HOST))), numbered(1));
}

#[test]
fn the_token_is_recognized_after_it_was_refreshed_and_after_many_others() {
    let mut worker = Worker::new();
    let first = worker.get(LISTED_HOST);
    // The token is due for refresh, and still valid.
    for _ in 0..340 {
        worker.host.advance(Duration::from_secs(10));
        worker.serve();
    }
    assert_eq!(token(&worker.get(LISTED_HOST)), numbered(2));
    // More scopes than are kept.
    for number in 0..100 {
        worker.host.advance(Duration::from_secs(1));
        let resource = format!("https://r{number}.example");
        let stream = worker.host.worker(0).request(to_imds(&resource));
        worker.serve();
        stream.end();
    }
    assert_eq!(token(&worker.send(redirected(&first, UNLISTED_HOST))), None);
    assert_eq!(token(&worker.send(redirected(&first, LISTED_HOST))), numbered(2));
}

#[test]
fn a_clients_own_credential_is_kept_whatever_other_headers_it_sends() {
    let mut worker = Worker::new();
    let first = worker.get(LISTED_HOST);
    // Without a redirect, the same token is the client's own.
    assert_eq!(token(&worker.send(again(&first, UNLISTED_HOST, &[]))), numbered(1));
    let own = Headers::get_request(LISTED_HOST, "/").with("authorization", "Bearer own");
    for host in [UNLISTED_HOST, LISTED_HOST] {
        assert_eq!(token(&worker.send(redirected(&own, host))).as_deref(), Some("Bearer own"), "{host}");
    }
}
