//! The rules that ship, and the same with all their lengths of time divided by one factor.

use serde_json::Value;
use stack::root;

/// By this the test divides every length of time in the rules: windows, offsets and `for`. A day takes 288 s, an hour 12 s, five
/// minutes 1 s. Thresholds are not changed.
pub(crate) const FACTOR: u64 = 300;

/// `observe/prometheus/rules.yaml`.
pub(crate) fn shipped() -> Value {
    let path = root().join("observe/prometheus/rules.yaml");
    stack::document::read(path.to_str().unwrap()).unwrap().remove(0)
}

/// The names of all alerts.
pub(crate) fn alerts() -> Vec<String> {
    every_rule(&mut shipped()).map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn every_rule(rules: &mut Value) -> impl Iterator<Item = &mut Value> {
    let groups = rules["groups"].as_array_mut().unwrap().iter_mut();
    groups.flat_map(|group| group["rules"].as_array_mut().unwrap())
}

/// The rules with every length of time divided by [`FACTOR`].
pub(crate) fn shortened() -> Value {
    let mut rules = shipped();
    for rule in every_rule(&mut rules) {
        rule["expr"] = shorten(rule["expr"].as_str().unwrap()).into();
        if let Some(length) = rule.get("for").and_then(Value::as_str) {
            rule["for"] = shorten_length(length).unwrap().into();
        }
    }
    rules
}

/// A PromQL expression with its windows and offsets divided by [`FACTOR`].
pub(crate) fn shorten(expression: &str) -> String {
    let mut shortened = String::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        let end = number.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(number.len());
        let (word, after) = number.split_at(end);
        shortened.push_str(before);
        let is_length = before.ends_with('[') || before.ends_with("offset ");
        shortened.push_str(&shorten_length(word).filter(|_| is_length).unwrap_or_else(|| word.to_owned()));
        rest = after;
    }
    shortened + rest
}

/// `23h30m` as milliseconds, divided by [`FACTOR`].
fn shorten_length(length: &str) -> Option<String> {
    let mut milliseconds = 0;
    let mut number = String::new();
    for c in length.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        milliseconds += number.parse::<u64>().ok()? * unit;
        number.clear();
    }
    (number.is_empty() && milliseconds > 0).then(|| format!("{}ms", milliseconds / FACTOR))
}

#[test]
fn windows_and_offsets_are_shortened_and_thresholds_are_not() {
    let expression = r#"increase(x_total{code=~"4.."}[10m] offset 23h30m) > 180 or rate(y[1h]) >= 0.9 * 10"#;
    let expected = r#"increase(x_total{code=~"4.."}[2000ms] offset 282000ms) > 180 or rate(y[12000ms]) >= 0.9 * 10"#;
    assert_eq!(shorten(expression), expected);
}
