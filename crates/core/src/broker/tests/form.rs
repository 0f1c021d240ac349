//! Tests of the format of shared data: modules of different builds in one process must not misread each other's entries.

use super::super::causes::Causes;
use super::super::credential;
use super::super::store::{Exchanges, RefusedAssertion};
use super::*;
use crate::assertion::{Assertion, Fingerprint};
use crate::entra::AccessToken;
use crate::problem::EntraDiagnosis;
use crate::untrusted::{Guid, OAuthError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The names and values of a process in which every field has a value.
///
/// If you change the format of an entry, increase the number in [`PREFIX`] and replace these lines with those that the failing test
/// prints. The lines of a released number never change.
const LAST_FORM: &str = include_str!("last-form.txt");

/// The time at which those lines were written.
const WRITTEN: Timestamp = START;

/// A problem with a value in every field.
fn problem() -> Problem {
    let mut problem = Problem::new(Code::EntraRefused, "detail", "remedy").about("payments", "s/.default");
    problem.entra = EntraDiagnosis {
        error: OAuthError::parse("invalid_client"),
        aadsts: Some(700_016),
        trace_id: Guid::parse("11111111-1111-4111-8111-111111111111"),
        correlation_id: Guid::parse("22222222-2222-4222-8222-222222222222"),
    };
    problem
}

fn cached() -> CachedToken {
    let token = AccessToken::parse("abc").unwrap();
    CachedToken::new(token, WRITTEN, Duration::from_secs(3600), Some(Duration::from_secs(1800)), 7)
}

fn fingerprint() -> Fingerprint {
    let process = Process { federated_lifetime: 3600, ..Process::new() };
    spec().assertion().read(process.federated_token(), None, WRITTEN).unwrap().fingerprint()
}

fn entry() -> Entry {
    let next_try = WRITTEN.plus(GRACE_PERIOD);
    let mut causes = Causes::default();
    causes.count(&problem());
    let mut exchanges = Exchanges::default();
    exchanges.record(Some(&problem()), WRITTEN);
    Entry {
        identity: "payments".to_owned(),
        scope: "s/.default".to_owned(),
        token: Some(cached()),
        failure: Some(Failure {
            problem: problem(),
            class: RetryClass::NeedsChange,
            failed_at: WRITTEN,
            next_try,
            failures: 3,
        }),
        causes,
        exchanges,
        refused: Some(RefusedAssertion { fingerprint: fingerprint(), read_at: WRITTEN }),
        lease: Some(Lease { holder: WorkerId(u64::MAX), until: next_try, waiting: vec![QueueId(1), QueueId(2)] }),
        rejected: true,
        forced_at: Some(WRITTEN),
        holders: vec![QueueId(3)],
        held_until: cached().usable_until(),
    }
}

/// The states of two sources: one has issued a token, and the other one has failed.
fn sources() -> [(Source, SourceState); 2] {
    let source = |cluster: &str| Source::File { cluster: cluster.to_owned() };
    let federated_token = jwt(&json!({"alg": "RS256"}), &claims());
    let assertion = Assertion::parse(federated_token.as_bytes(), WRITTEN).unwrap();
    let (mut issued, mut failed) = (SourceState::default(), SourceState::default());
    let until = WRITTEN.plus(GRACE_PERIOD);
    issued.readable = true;
    issued.record(&Ok(Arc::new(assertion)), until, WRITTEN);
    issued.lease = Some(Lease { holder: WorkerId(7), until, waiting: vec![QueueId(1)] });
    failed.record(&Err(problem()), until, WRITTEN);
    [(source("issued"), issued), (source("failed"), failed)]
}

/// Shared data in which every field has been written.
fn written() -> Shared {
    let shared = Shared::default();
    shared.prepare();
    let spec = spec();
    store::update(&shared, spec.key(), WRITTEN, |written| {
        *written = entry();
        Update::Commit(())
    });
    store::record_reading(&shared, spec.assertion(), true, WRITTEN);
    for (source, state) in sources() {
        store::update_source(&shared, &source, WRITTEN, |written| {
            *written = state.clone();
            Update::Commit(())
        });
    }
    credential::record_issued(&shared, &spec, &cached(), WRITTEN);
    credential::record_known(&shared, &spec, WRITTEN);
    credential::record_throttling(&shared, &spec, &problem(), WRITTEN, &|_| GRACE_PERIOD);
    credential::record_refusal(&shared, &spec, &problem(), fingerprint(), WRITTEN);
    let limits = UnlistedLimits { scopes: 2, parallel_exchanges: 1, ..UnlistedLimits::default() };
    store::update_credential(&shared, spec.credential(), WRITTEN, |state| {
        for (queue, scope) in [(QueueId(1), "a/.default"), (QueueId(2), "b/.default")] {
            let key = spec_of("payments", scope, &["entra"], None).key();
            state.budget.admit(key, limits, WRITTEN).unwrap();
            state.budget.begin((queue, key), WRITTEN.plus(GRACE_PERIOD), limits, WRITTEN);
        }
        Update::Commit(())
    });
    shared
}

/// Returns the paths of the fields without a value.
fn without_value(path: &str, value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Null => vec![path.to_owned()],
        serde_json::Value::Array(items) if items.is_empty() => vec![path.to_owned()],
        serde_json::Value::Array(items) => items.iter().take(1).flat_map(|item| without_value(path, item)).collect(),
        serde_json::Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| without_value(&format!("{path}.{name}"), value)).collect()
        }
        _ => Vec::new(),
    }
}

fn json_of(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

impl Shared {
    fn of(lines: &str) -> Self {
        let shared = Self::default();
        shared.prepare();
        for (name, value) in lines.lines().filter_map(|line| line.split_once(' ')) {
            shared.memory.set(name, &STANDARD.decode(value).unwrap(), None);
        }
        shared
    }

    fn lines(&self) -> String {
        let values = self.memory.values.borrow();
        let mut lines: Vec<String> = values
            .iter()
            .filter(|(_, (value, _))| value != EMPTY)
            .map(|(name, (value, _))| format!("{name} {}\n", STANDARD.encode(value)))
            .collect();
        lines.sort();
        lines.concat()
    }
}

#[test]
fn shared_data_has_the_format_of_the_version_number_in_its_names() {
    let (spec, written) = (spec(), written());
    let state = written.read_credential(spec.credential());
    let without = [without_value("entry", &json_of(&entry())), without_value("state", &json_of(&state))].concat();
    let of_sources = sources().map(|(_, state)| without_value("source", &json_of(&state)));
    assert_eq!(of_sources.map(|fields| fields.join(" ")), ["source.failure", "source.issued source.lease"]);
    assert_eq!(without, [""; 0], "these fields have no value, so a change of their format is not detected");
    let lines = written.lines();
    assert!(
        lines == LAST_FORM,
        "The format or its number has changed. A module of a released version reads the entries under these names: increase the \
         number in PREFIX, and write these lines to src/broker/tests/last-form.txt.\n{lines}"
    );
    assert!(lines.lines().all(|line| line.starts_with(PREFIX)));
    let kept = Shared::of(LAST_FORM);
    assert!(kept.read(spec.key()) == entry());
    assert_eq!(kept.read_credential(spec.credential()), state);
    assert!(sources().iter().all(|(source, state)| kept.read_source(source) == *state));
}

#[test]
fn entries_of_a_module_with_another_format_are_not_read() {
    let shared = Shared::of(&LAST_FORM.replace(PREFIX, "entra-exchange/1/"));
    assert!(shared.read(spec().key()) == Entry::default());
    let mut worker = Worker::new(WorkerId(7), QueueId(0), Limits::default());
    let (answer, _) = worker.get(&Arc::new(spec()), RequiredLifetime::Any, StreamId(1), WRITTEN, &shared);
    assert!(matches!(answer, TokenLookup::Pending));
}
