//! What surrounds the filter in a host that runs within the test's own process: the federated token, Entra, and an upstream that answers with what
//! it received.

use std::cell::RefCell;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use fake_entra::{Directory, Disconnect, Issuer, TokenRequest};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use stack::{CLIENT_ID, ISSUER_URL, NAMESPACE, RESOURCES, SERVICE_ACCOUNT, TOKEN_LIFETIME};
use wasm_host::{Headers, Reply};

use crate::caught::caught;
use crate::scenarios::{self, Scenario, TestHost};
use crate::sources::{self, FakeSource, SourceScenario};

/// The longest time that a request may wait for its response.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);

/// A host within the test's own process.
pub(crate) trait InProcessHost: TestHost + Sized {
    fn start(scenario: &Scenario) -> Self;

    fn start_with_source(scenario: &SourceScenario) -> Self;

    /// The source over HTTP with which the host was started.
    fn source(&self) -> FakeSource;

    fn log(&self) -> String;

    /// Asserts that the log shows no token and no fault.
    fn check_log(&self);
}

/// Runs every scenario, each in a host of its own.
pub(crate) fn run<H: InProcessHost>() -> ExitCode {
    let arguments = Arguments::from_args();
    let of_sources = sources::all().map(|scenario| {
        Trial::test(scenario.name, move || {
            caught(|| {
                let host = H::start_with_source(scenario);
                let source = host.source();
                (scenario.run)(&host, &source);
                host.check_log();
                source.assert_hidden(&host.log());
            })
        })
    });
    let trials = scenarios::ALL.iter().map(|scenario| {
        Trial::test(scenario.name, move || {
            caught(|| {
                let host = H::start(scenario);
                (scenario.run)(&host);
                host.check_log();
            })
        })
    });
    libtest_mimic::run(&arguments, trials.chain(of_sources).collect()).exit_code()
}

/// The issuer of federated tokens, the one that is projected now, and Entra.
pub(crate) struct Surroundings {
    pub(crate) entra: Directory,
    issuer: Issuer,
    token: RefCell<String>,
    /// The source of federated tokens over HTTP, in its scenarios.
    pub(crate) source: Option<FakeSource>,
}

/// An answer of Entra or of a source.
pub(crate) struct EntraAnswer {
    /// After this time.
    pub(crate) delay: Duration,
    /// The connection ends instead.
    pub(crate) disconnect: Option<Disconnect>,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Surroundings {
    pub(crate) fn new() -> Self {
        let issuer = Issuer::new(ISSUER_URL);
        let entra = Directory::new();
        entra.trust_issuer(ISSUER_URL, issuer.jwks());
        for resource in RESOURCES {
            entra.register_resource(resource);
        }
        entra.register_credential(stack::credential(CLIENT_ID)).unwrap();
        Self { entra, issuer, token: RefCell::default(), source: None }
    }

    /// The same with a source over HTTP, whose tokens Entra accepts.
    pub(crate) fn with_source(scenario: &SourceScenario) -> Self {
        let mut surroundings = Self::new();
        let source = (scenario.source)(&surroundings.issuer);
        source.register(&surroundings.entra);
        surroundings.source = Some(source);
        surroundings
    }

    /// Sends a request to the source over HTTP.
    pub(crate) fn source_request(
        &self,
        method: &str,
        target: &str,
        headers: impl IntoIterator<Item = (String, String)>,
        body: &[u8],
        now: SystemTime,
    ) -> EntraAnswer {
        let mut request = fake_http::Request::new(method, target);
        request.headers.extend(headers);
        request.body = body.to_vec();
        let answer = self.source.as_ref().unwrap().respond(&request, now);
        let date = ("date".to_owned(), "Thu, 01 Jan 2026 00:00:00 GMT".to_owned());
        EntraAnswer {
            delay: answer.delay,
            disconnect: answer.disconnect,
            status: answer.status,
            headers: std::iter::once(date).chain(answer.headers).collect(),
            body: answer.body,
        }
    }

    /// Projects a federated token of this audience.
    pub(crate) fn project(&self, audience: &str, now: SystemTime) {
        *self.token.borrow_mut() =
            self.issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, audience, now, TOKEN_LIFETIME);
    }

    /// The federated token, as the cluster in front of its file serves it.
    pub(crate) fn federated_token(&self) -> String {
        self.token.borrow().clone()
    }

    /// Sends a token request to Entra.
    pub(crate) fn token_request(
        &self,
        authority: &str,
        path: &str,
        form: &[u8],
        client_request_id: Option<&str>,
        now: SystemTime,
    ) -> EntraAnswer {
        let tenant_id = path.strip_prefix('/').and_then(|path| path.strip_suffix("/oauth2/v2.0/token"));
        let answer = self.entra.respond(&TokenRequest {
            tenant_id: tenant_id.unwrap_or_else(|| panic!("{path} is not the path of a token endpoint")),
            form,
            authority: &format!("https://{authority}"),
            client_request_id,
            now,
        });
        // The fake's server dates its answers, as Entra does; Envoy does not date its own.
        let date = ("date".to_owned(), "Thu, 01 Jan 2026 00:00:00 GMT".to_owned());
        let headers = answer.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        EntraAnswer {
            delay: answer.delay,
            disconnect: answer.disconnect,
            status: answer.status,
            headers: std::iter::once(date).chain(headers).collect(),
            body: answer.body,
        }
    }
}

/// A request as the filter receives it.
pub(crate) fn received(request: &stack::Request) -> Headers {
    let first = [
        (":authority", request.host()),
        (":path", request.path()),
        (":method", request.method()),
        (":scheme", "http"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "5e1d5b1c-1b1e-4b6e-9d1e-1d5b1c1b1e4b"),
    ];
    let first = first.iter().map(|(name, value)| (*name, value.as_bytes()));
    Headers::received(first.chain(request.headers()))
}

/// The upstream's response: what it received.
pub(crate) fn upstream(forwarded: &Headers, body_length: usize) -> stack::Response {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let host = forwarded.text(":authority").unwrap_or_default();
    let others = forwarded.iter().filter(|(name, _)| !name.starts_with(b":"));
    let headers: Vec<_> = std::iter::once(("host".to_owned(), host))
        .chain(others.map(|(name, value)| (text(name), text(value))))
        .map(|(name, value)| json!([name, value]))
        .collect();
    let seen = json!({
        "method": forwarded.text(":method"),
        "path": forwarded.text(":path"),
        "headers": headers,
        "body_length": body_length,
    });
    stack::Response {
        status: 200,
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body: seen.to_string().into_bytes(),
    }
}

/// A local reply as its client receives it.
pub(crate) fn local_reply(reply: &Reply) -> stack::Response {
    let headers = reply.headers.iter();
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    stack::Response {
        status: reply.status,
        headers: headers.map(|(name, value)| (text(name), value.to_vec())).collect(),
        body: reply.body.clone(),
    }
}
