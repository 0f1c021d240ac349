//! The form of what the workers share: modules of different builds that run side by side must not misread each other.

use super::super::{credential, shared::PREFIX};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Names and values of one process in which every field of an entry has a value.
///
/// Whoever changes the form of an entry raises the number in [`PREFIX`], and writes these lines anew: the failing test
/// shows the values. Lines of a number that was released never change.
const LAST_FORM: &str = include_str!("last-form.txt");

/// When those lines were written.
const WRITTEN: Timestamp = Timestamp::from_unix_seconds(1_795_334_060);

/// The paths of what has no value.
fn without_value(path: &str, value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Null => vec![path.to_owned()],
        serde_json::Value::Array(items) if items.is_empty() => vec![path.to_owned()],
        serde_json::Value::Array(items) => items.iter().flat_map(|item| without_value(path, item)).collect(),
        serde_json::Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| without_value(&format!("{path}.{name}"), value)).collect()
        }
        _ => Vec::new(),
    }
}

impl Shared {
    fn of(lines: &str) -> Self {
        let shared = Self::default();
        prepare(&shared);
        for (name, value) in lines.lines().filter_map(|line| line.split_once(' ')) {
            shared.set(name, &STANDARD.decode(value).unwrap(), None);
        }
        shared
    }

    fn lines(&self) -> String {
        let values = self.values.borrow();
        let mut lines: Vec<String> = values
            .iter()
            .filter(|(_, (value, _))| value != shared::EMPTY)
            .map(|(name, (value, _))| format!("{name} {}\n", STANDARD.encode(value)))
            .collect();
        lines.sort();
        lines.concat()
    }
}

#[test]
fn entries_of_another_form_have_another_number_in_their_names() {
    let shared = Shared::of(LAST_FORM);
    let grant = Arc::new(grant());
    // Each entry is read, and written as it is.
    shared::update(&shared, grant.key(), WRITTEN, |_| Then::Write(()));
    credential::update(&shared, grant.credential(), WRITTEN, |_| Then::Write(()));
    assert_eq!(shared.lines(), LAST_FORM, "the form has changed: raise the number in PREFIX, and write the lines anew");
    for line in LAST_FORM.lines() {
        assert!(line.starts_with(PREFIX), "{PREFIX} has another number than {line:?}: write the lines anew");
    }
}

#[test]
fn the_lines_of_the_last_form_give_every_field_a_value() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.ready(1);
    process.look(1);
    let key = process.grant.key();
    let held = process.workers[0].slots[&key].token.clone().unwrap();
    process.workers[0].reject(key, &held, process.now, &process.shared);
    process.look(0);
    process.assertion(0);
    let ids = json!({
        "error": "invalid_client", "error_description": "AADSTS700016: no", "error_codes": [700_016],
        "trace_id": "11111111-1111-4111-8111-111111111111", "correlation_id": "22222222-2222-4222-8222-222222222222",
    });
    process.endpoint(0, answer(400, &ids));
    process.now = WRITTEN;
    process.look(0);
    process.look(1);
    let entry = serde_json::to_value(shared::read(&process.shared, key)).unwrap();
    let without = without_value("entry", &entry);
    assert!(without.is_empty(), "{without:?}\n{}", process.shared.lines());
    let names = |lines: &str| -> Vec<String> {
        lines.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(&process.shared.lines()), names(LAST_FORM), "\n{}", process.shared.lines());
    let last = shared::read(&Shared::of(LAST_FORM), key);
    assert_eq!(without_value("entry", &serde_json::to_value(last).unwrap()), without);
}

#[test]
fn what_a_module_of_another_form_left_is_not_read() {
    let shared = Shared::of(&LAST_FORM.replace(PREFIX, "entra-exchange/1/"));
    assert_eq!(shared::read(&shared, grant().key()), Entry::default());
    let mut worker = Broker::new(WorkerId(7), QueueId(0), Limits::default());
    let (answer, _) = worker.get(&Arc::new(grant()), Need::Usable, StreamId(1), WRITTEN, &shared);
    assert!(matches!(answer, Answer::Pending));
}
