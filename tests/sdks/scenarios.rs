//! The scenarios that run with every SDK.

use std::time::Duration;

use fake_entra::Fault;

use crate::harness::{Harness, REPORTS, Source, TokenRequest, UNKNOWN_CLIENT};
use crate::sdk::{Endpoint, Sdk};

/// A scenario.
pub(crate) struct Scenario {
    /// The end of the test's name; the SDK's id precedes it.
    pub(crate) sentence: &'static str,
    /// The header of its column in the table.
    pub(crate) column: &'static str,
    /// Whether the scenario applies to an SDK and source.
    applies: fn(&Sdk, Source) -> bool,
    /// Runs the scenario and returns the result for the table. Panics when the sentence is not true.
    pub(crate) run: fn(&Harness, Source) -> String,
}

impl Scenario {
    pub(crate) fn sources(&self, sdk: &Sdk) -> Vec<Source> {
        let supported = sdk.endpoints.iter().map(|endpoint| endpoint.source);
        supported.filter(|source| (self.applies)(sdk, *source)).collect()
    }

    pub(crate) fn applies_to(&self, sdk: &Sdk) -> bool {
        !self.sources(sdk).is_empty()
    }
}

/// All scenarios in the order of the table's columns.
pub(crate) const ALL: [Scenario; 6] = [
    Scenario {
        sentence: "requests_a_token_once",
        column: "a token, twice in one process, then in another",
        applies: |_, _| true,
        run: token,
    },
    Scenario {
        sentence: "gets_a_token_of_the_selected_identity",
        column: "user-assigned, by",
        applies: |_, _| true,
        run: user_assigned,
    },
    Scenario {
        sentence: "gets_no_token_for_an_identity_that_is_not_configured",
        column: "an identity that is not offered",
        applies: |_, _| true,
        run: unknown_identity,
    },
    Scenario {
        sentence: "detects_the_endpoint_with_its_probe",
        column: "`DefaultAzureCredential`",
        // App Service is detected by its environment variables, without a probe.
        applies: |sdk, source| sdk.chain.is_some() && source == Source::Imds,
        run: probe,
    },
    Scenario { sentence: "reports_entras_error", column: "refused by Entra", applies: |_, _| true, run: rejected },
    Scenario {
        sentence: "recovers_from_a_transient_failure",
        column: "Entra answers 503 twice",
        applies: |_, _| true,
        run: transient,
    },
];

fn token(harness: &Harness, source: Source) -> String {
    harness.entra().reset();
    let (before, _) = harness.requests();
    let got = harness.get_tokens(source, TokenRequest { times: 2, ..TokenRequest::default() }).unwrap();
    assert_eq!(got[0].text, got[1].text, "both tokens are the same");
    let claims = harness.claims(&got[0]);
    assert_eq!(claims["aud"], source.resource());
    assert_eq!(claims["appid"], Harness::default_client());
    let in_one = harness.requests().0 - before;
    assert_eq!(in_one, if endpoint(harness, source).caches { 1 } else { 2 }, "whether the SDK caches the token");

    let again = harness.get_tokens(source, TokenRequest::default()).unwrap();
    assert_eq!(again[0].text, got[0].text);
    harness.claims(&again[0]);
    let exchanges = harness.entra().stats().token_requests;
    assert_eq!(exchanges, 1, "the filter caches the token");
    let requests = if in_one == 1 { "request" } else { "requests" };
    format!("{in_one} {requests}, then {}; {exchanges} exchange", harness.requests().0 - before - in_one)
}

fn user_assigned(harness: &Harness, source: Source) -> String {
    let offered = endpoint(harness, source).selectors;
    for selector in offered {
        let request =
            TokenRequest { selector: Some((selector, Harness::reports_by(selector))), ..TokenRequest::default() };
        let got = harness.get_tokens(source, request).unwrap();
        assert_eq!(harness.claims(&got[0])["appid"], REPORTS, "{selector}");
    }
    offered.iter().map(|selector| format!("`{selector}`")).collect::<Vec<_>>().join(", ")
}

fn unknown_identity(harness: &Harness, source: Source) -> String {
    harness.entra().reset();
    let unknown = "ffffffff-0000-4000-8000-00000000000f";
    let mut is_reported = true;
    for selector in endpoint(harness, source).selectors {
        let (before, _) = harness.requests();
        let value = match *selector {
            "resource_id" => Harness::reports_by(selector).replace("/reports", "/unknown"),
            _ => unknown.to_owned(),
        };
        let message = harness
            .get_tokens(source, TokenRequest { selector: Some((selector, &value)), ..TokenRequest::default() })
            .unwrap_err();
        assert_eq!(harness.requests().0 - before, 1, "{selector}: the SDK does not retry");
        is_reported &= message.contains("Identity not found");
    }
    assert_eq!(harness.entra().stats().token_requests, 0);
    assert_eq!(is_reported, endpoint(harness, source).reports_errors);
    format!("1 request; {}", in_the_message("`Identity not found`", is_reported))
}

fn probe(harness: &Harness, source: Source) -> String {
    let (requests, rejected) = harness.requests();
    let got = harness.get_tokens(source, TokenRequest { chain: true, ..TokenRequest::default() }).unwrap();
    assert_eq!(harness.claims(&got[0])["appid"], Harness::default_client());
    let now = harness.requests();
    let probes = now.1 - rejected;
    assert!(probes >= 1, "the SDK has not probed");
    assert_eq!(now.0 - requests, probes + 1, "one request for the token");
    format!("{probes} probe, answered 400; then a token")
}

fn rejected(harness: &Harness, source: Source) -> String {
    harness.entra().reset();
    let (before, _) = harness.requests();
    let request = TokenRequest { selector: Some(("client_id", UNKNOWN_CLIENT)), ..TokenRequest::default() };
    let message = harness.get_tokens(source, request).unwrap_err();
    let requests = harness.requests().0 - before;
    assert_eq!(requests, 1, "the SDK does not retry");
    let tries = harness.entra().stats().token_requests;
    assert_eq!(tries, 2, "the filter retries once in the same exchange, because Entra may not know a new client yet");
    let is_reported =
        message.contains(&format!("AADSTS700016: Application with identifier '{UNKNOWN_CLIENT}' was not found"));
    assert_eq!(is_reported, endpoint(harness, source).reports_errors, "{message}");
    format!("{requests} request; {}", in_the_message("`AADSTS700016: …`", is_reported))
}

fn transient(harness: &Harness, source: Source) -> String {
    harness.entra().reset();
    harness.entra().add_faults(vec![Fault::status(503).times(2)]);
    let first = harness.get_tokens(source, TokenRequest::default());
    if endpoint(harness, source).retries {
        harness.claims(&first.unwrap()[0]);
        return "recovers by itself".to_owned();
    }
    let message = first.unwrap_err();
    let mut got = None;
    let recovered = stack::eventually(Duration::from_secs(20), || {
        got = harness.get_tokens(source, TokenRequest::default()).ok();
        got.is_some()
    });
    assert!(recovered, "{message}");
    harness.claims(&got.unwrap()[0]);
    "an error; the next call after `Retry-After` gets it".to_owned()
}

/// Returns the SDK's behaviour at this source.
fn endpoint(harness: &Harness, source: Source) -> &'static Endpoint {
    harness.sdk().endpoint(source).unwrap()
}

fn in_the_message(text: &str, is_reported: bool) -> String {
    if is_reported { format!("{text} in the message") } else { "its message does not say why".to_owned() }
}
