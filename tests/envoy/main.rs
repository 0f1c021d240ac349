//! The release module in a real Envoy: all scenarios, and tests of behaviour that only Envoy has.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod bad_answers;
#[path = "../caught/mod.rs"]
mod caught;
mod clients;
mod connections;
mod destinations;
#[path = "../evasions/mod.rs"]
mod evasions;
mod managed_identity;
mod many;
mod metadata_address;
mod observed;
#[path = "../scenarios/mod.rs"]
mod scenarios;
mod source_clusters;
mod token_file;
mod tokens;
mod trap;
mod upgrade;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use caught::caught;
use fake_entra::Directory;
use libtest_mimic::{Arguments, Trial};
use scenarios::{Scenario, TestHost};
use stack::{LISTED_HOST, Options, Request, Response, Stack, StartError, TOKEN_LIFETIME, envoy};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests mostly wait, so more of them can run than there are cores.
    arguments.test_threads.get_or_insert(4);
    let [newest, oldest] = envoy::VERSIONS;
    let mut trials = Vec::new();
    for scenario in scenarios::ALL {
        trials.push(trial(newest, scenario));
        if scenario.on_every_version && envoy::replacement().is_none() {
            trials.push(trial(oldest, scenario));
        }
    }
    let tests = [
        ALL,
        tokens::ALL,
        connections::ALL,
        token_file::ALL,
        managed_identity::ALL,
        metadata_address::ALL,
        destinations::ALL,
        destinations::connection::ALL,
        destinations::routes::ALL,
        destinations::protocols::ALL,
        many::ALL,
        observed::ALL,
        source_clusters::ALL,
        bad_answers::ALL,
    ];
    for (name, test) in tests.into_iter().flatten().chain(upgrade::ALL) {
        trials.push(Trial::test(*name, move || caught(test)).with_kind(newest));
    }
    for (name, test) in clients::ALL {
        for version in envoy::VERSIONS.into_iter().take(if envoy::replacement().is_some() { 1 } else { 2 }) {
            trials.push(Trial::test(*name, move || caught(|| test(version))).with_kind(version));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The tests of this file.
const ALL: &[(&str, fn())] = &[
    ("envoy_does_not_start_with_an_invalid_configuration_and_logs_every_mistake", an_invalid_configuration_is_rejected),
    ("a_push_of_an_invalid_configuration_is_rejected_and_the_old_one_stays_in_use", an_invalid_push_is_rejected),
    ("the_log_shows_version_commit_and_each_exchange", the_log_shows_version_and_exchanges),
];

fn trial(version: &'static str, scenario: &'static Scenario) -> Trial {
    Trial::test(scenario.name, move || {
        caught(|| {
            let stack = started(version, scenario);
            (scenario.run)(&Envoy(&stack));
            assert_clean_log(&stack);
        })
    })
    .with_kind(version)
}

fn started(version: &str, scenario: &Scenario) -> Stack {
    let setup = &scenario.setup;
    let mut options = Options {
        configuration: setup.configuration.map(|configuration| configuration().to_string()),
        layout: setup.layout,
        envoy: Some(envoy::binary_of(version)),
        ..Options::default()
    };
    if let Some(name) = setup.unset_variable {
        options = options.variable(name, None);
    }
    if setup.audience != stack::AUDIENCE {
        let issuer = fake_entra::Issuer::new(stack::ISSUER_URL);
        options.token = Some(issuer.service_account_token(
            stack::NAMESPACE,
            stack::SERVICE_ACCOUNT,
            setup.audience,
            SystemTime::now(),
            TOKEN_LIFETIME,
        ));
    }
    Stack::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn assert_clean_log(stack: &Stack) {
    let unexpected = stack.forbidden_log_lines();
    assert!(unexpected.is_empty(), "unexpected lines in the log:\n{}", unexpected.join("\n"));
}

/// The lines of the log that the filter wrote.
fn filter_log(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("wasm log")).collect();
    lines.join("\n")
}

/// Runs scenarios on Envoy.
struct Envoy<'a>(&'a Stack);

impl TestHost for Envoy<'_> {
    fn outbound(&self, requests: &[Request]) -> Vec<Response> {
        thread::scope(|scope| {
            let sent: Vec<_> = requests.iter().map(|request| scope.spawn(|| self.0.send(request).unwrap())).collect();
            sent.into_iter().map(|answer| answer.join().unwrap()).collect()
        })
    }

    fn imds(&self, request: &Request) -> Response {
        self.0.send_imds(request).unwrap()
    }

    fn entra(&self) -> Directory {
        self.0.directory()
    }

    fn rotate(&self) {
        self.0.rotate_token().unwrap();
    }

    fn advance(&self, time: Duration) {
        thread::sleep(time);
    }
}

const INVALID: &str = r#"{"destinations":[{"host":["x"],"scope":"https://vault.azure.net"}]}"#;

/// Whether the log lists all mistakes of [`INVALID`].
fn lists_all_mistakes(log: &str) -> bool {
    [
        r#"destinations[0].host: unknown field: did you mean \"hosts\"?"#,
        r#"destinations[0].scope: \"https://vault.azure.net\" is a resource: write \"https://vault.azure.net/.default\""#,
    ]
    .iter()
    .all(|mistake| log.contains(mistake))
}

/// A stack on the newest Envoy.
fn newest(options: Options) -> Stack {
    Stack::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn an_invalid_configuration_is_rejected() {
    let options = Options { configuration: Some(INVALID.to_owned()), ..Options::default() };
    match Stack::start(options) {
        Err(error @ StartError::EnvoyExited { .. }) => assert!(lists_all_mistakes(&error.to_string()), "{error}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("Envoy accepted the configuration"),
    }
}

fn an_invalid_push_is_rejected() {
    let stack = newest(Options { lds: true, ..Options::default() });
    assert!(stack.push_configuration(INVALID).is_err());
    assert!(lists_all_mistakes(&stack.log()), "{}", filter_log(&stack.log()));
    let answer = stack.get(LISTED_HOST, "/", &[]);
    assert!(answer.seen_header("authorization").is_some(), "the old configuration is not in use");
    let refuse = r#"{"destinations":[{"hosts":["payments-kv.vault.azure.net"],"scope":"https://vault.azure.net/.default","tls_clusters":["x"]}]}"#;
    stack.push_configuration(refuse).unwrap();
    assert_eq!(stack.get(LISTED_HOST, "/", &[]).status, 403, "a valid configuration is not applied");
}

fn the_log_shows_version_and_exchanges() {
    let stack = newest(Options::default());
    stack.get(LISTED_HOST, "/", &[]);
    let issued =
        "event=exchange outcome=issued identity=default scope=https://vault.azure.net/.default expires_in_s=35";
    let logged = stack::eventually(Duration::from_secs(2), || stack.log().contains(issued));
    let log = stack.log();
    assert!(logged, "{}", filter_log(&log));
    let start = format!("event=start version={} commit=", env!("CARGO_PKG_VERSION"));
    assert!(log.contains(&start), "{}", filter_log(&log));
    assert_eq!(log.matches("event=exchange").count(), 1, "one line for each exchange");
}
