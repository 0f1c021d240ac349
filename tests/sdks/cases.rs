//! What is tried with every SDK.

use std::time::Duration;

use fake_entra::Fault;

use crate::sdk::{Endpoint, Sdk};
use crate::world::{Ask, REPORTS, STRANGER, Source, World};

/// One thing that is tried.
pub(crate) struct Case {
    /// The end of the test's name, after the SDK.
    pub(crate) sentence: &'static str,
    /// The head of its column in the table.
    pub(crate) column: &'static str,
    /// Whether there is something to try.
    applies: fn(&Sdk, Source) -> bool,
    /// Tries it, and says for the table what has been seen. Panics when the sentence is not true.
    pub(crate) run: fn(&World, Source) -> String,
}

impl Case {
    pub(crate) fn sources(&self, sdk: &Sdk) -> Vec<Source> {
        let spoken = sdk.endpoints.iter().map(|endpoint| endpoint.source);
        spoken.filter(|source| (self.applies)(sdk, *source)).collect()
    }

    pub(crate) fn concerns(&self, sdk: &Sdk) -> bool {
        !self.sources(sdk).is_empty()
    }
}

/// All of them, in the order of the table's columns.
pub(crate) const ALL: [Case; 6] = [
    Case {
        sentence: "gets_a_token_and_asks_for_it_once",
        column: "a token, twice in one process, then in another",
        applies: |_, _| true,
        run: token,
    },
    Case {
        sentence: "gets_the_token_of_the_identity_that_it_names",
        column: "user-assigned, by",
        applies: |_, _| true,
        run: user_assigned,
    },
    Case {
        sentence: "gets_no_token_for_an_identity_that_is_not_offered",
        column: "an identity that is not offered",
        applies: |_, _| true,
        run: unknown,
    },
    Case {
        sentence: "finds_the_endpoint_by_its_probe",
        column: "`DefaultAzureCredential`",
        // App Service is known by its variables.
        applies: |sdk, source| sdk.chain.is_some() && source == Source::Imds,
        run: probe,
    },
    Case { sentence: "is_told_what_entra_refuses", column: "refused by Entra", applies: |_, _| true, run: refused },
    Case {
        sentence: "gets_over_a_failure_that_passes",
        column: "Entra answers 503 twice",
        applies: |_, _| true,
        run: transient,
    },
];

fn token(world: &World, source: Source) -> String {
    world.entra().reset();
    let (before, _) = world.requests();
    let got = world.ask(source, Ask { times: 2, ..Ask::default() }).unwrap();
    assert_eq!(got[0].text, got[1].text, "the second is the first");
    let claims = world.claims(&got[0]);
    assert_eq!(claims["aud"], source.resource());
    assert_eq!(claims["appid"], World::default_client());
    let in_one = world.requests().0 - before;
    assert_eq!(in_one, if endpoint(world, source).keeps { 1 } else { 2 }, "the SDK keeps the token, or does not");

    let again = world.ask(source, Ask::default()).unwrap();
    assert_eq!(again[0].text, got[0].text);
    world.claims(&again[0]);
    let exchanges = world.entra().stats().token_requests;
    assert_eq!(exchanges, 1, "the filter keeps it, too");
    let requests = if in_one == 1 { "request" } else { "requests" };
    format!("{in_one} {requests}, then {}; {exchanges} exchange", world.requests().0 - before - in_one)
}

fn user_assigned(world: &World, source: Source) -> String {
    let offered = endpoint(world, source).selectors;
    for selector in offered {
        let ask = Ask { selector: Some((selector, World::reports_by(selector))), ..Ask::default() };
        let got = world.ask(source, ask).unwrap();
        assert_eq!(world.claims(&got[0])["appid"], REPORTS, "{selector}");
    }
    offered.iter().map(|selector| format!("`{selector}`")).collect::<Vec<_>>().join(", ")
}

fn unknown(world: &World, source: Source) -> String {
    world.entra().reset();
    let nobody = "ffffffff-0000-4000-8000-00000000000f";
    let mut told = true;
    for selector in endpoint(world, source).selectors {
        let (before, _) = world.requests();
        let value = match *selector {
            "resource_id" => World::reports_by(selector).replace("/reports", "/nobody"),
            _ => nobody.to_owned(),
        };
        let message = world.ask(source, Ask { selector: Some((selector, &value)), ..Ask::default() }).unwrap_err();
        assert_eq!(world.requests().0 - before, 1, "{selector}: it does not try again");
        told &= message.contains("Identity not found");
    }
    assert_eq!(world.entra().stats().token_requests, 0);
    assert_eq!(told, endpoint(world, source).tells);
    format!("1 request; {}", in_the_message("`Identity not found`", told))
}

fn probe(world: &World, source: Source) -> String {
    let (requests, refused) = world.requests();
    let got = world.ask(source, Ask { chain: true, ..Ask::default() }).unwrap();
    assert_eq!(world.claims(&got[0])["appid"], World::default_client());
    let now = world.requests();
    let probes = now.1 - refused;
    assert!(probes >= 1, "it has not probed");
    assert_eq!(now.0 - requests, probes + 1, "one request for the token");
    format!("{probes} probe, answered 400; then a token")
}

fn refused(world: &World, source: Source) -> String {
    world.entra().reset();
    let (before, _) = world.requests();
    let ask = Ask { selector: Some(("client_id", STRANGER)), ..Ask::default() };
    let message = world.ask(source, ask).unwrap_err();
    let requests = world.requests().0 - before;
    assert_eq!(requests, 1, "it does not try again");
    assert_eq!(world.entra().stats().token_requests, 1, "nor does the filter");
    let told = message.contains(&format!("AADSTS700016: Application with identifier '{STRANGER}' was not found"));
    assert_eq!(told, endpoint(world, source).tells, "{message}");
    format!("{requests} request; {}", in_the_message("`AADSTS700016: …`", told))
}

fn transient(world: &World, source: Source) -> String {
    world.entra().reset();
    world.entra().add_faults(vec![Fault::status(503).times(2)]);
    let first = world.ask(source, Ask::default());
    if endpoint(world, source).retries {
        world.claims(&first.unwrap()[0]);
        return "recovers by itself".to_owned();
    }
    let message = first.unwrap_err();
    let mut got = None;
    let recovered = stack::eventually(Duration::from_secs(20), || {
        got = world.ask(source, Ask::default()).ok();
        got.is_some()
    });
    assert!(recovered, "{message}");
    world.claims(&got.unwrap()[0]);
    "an error; the next call after `Retry-After` gets it".to_owned()
}

/// How the SDK speaks to this source.
fn endpoint(world: &World, source: Source) -> &'static Endpoint {
    world.sdk().endpoint(source).unwrap()
}

fn in_the_message(text: &str, told: bool) -> String {
    if told { format!("{text} in the message") } else { "its message does not say why".to_owned() }
}
