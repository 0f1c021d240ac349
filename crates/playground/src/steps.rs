//! The steps of a request one after the other, with the time that each takes, for the page's picture.
//!
//! The times are assumptions, which the page asks for; the timeouts are those of the configuration.

use operator::explain::{Exchange, Explained};
use serde::{Deserialize, Serialize};

/// How long steps are assumed to take, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Durations {
    /// A call that gets the federated token.
    source: u64,
    /// The token request to Entra.
    entra: u64,
    /// The request to the service.
    service: u64,
}

impl Default for Durations {
    /// A file is read within Envoy; an exchange usually takes 100 ms.
    fn default() -> Self {
        Self { source: 2, entra: 100, service: 20 }
    }
}

/// A case: the token is cached, or must be fetched.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    /// What distinguishes it.
    name: &'static str,
    /// The result for the request.
    result: String,
    /// The steps in order.
    steps: Vec<Step>,
    /// The time of all steps.
    total: u64,
}

/// A step. Times are in milliseconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// What is done.
    name: String,
    /// `source`, `entra` or `service`.
    kind: &'static str,
    /// When it begins.
    start: u64,
    /// How long it takes.
    length: u64,
    /// After which time it would be given up.
    timeout: Option<u64>,
    /// Whether it ends without an answer.
    is_lost: bool,
}

/// The cases of a request: none if it is not forwarded and gets no token.
pub(crate) fn of(explained: &Explained, durations: &Durations) -> Vec<Case> {
    let is_forwarded = matches!(explained.outcome, "inject" | "pass" | "keep" | "unchanged" | "report");
    let service = is_forwarded.then_some(durations.service);
    match &explained.exchange {
        Some(exchange) if matches!(explained.outcome, "inject" | "answer") => {
            let mut cases = vec![cached(service), fetched("The token is not cached", exchange, durations, service, 0)];
            if exchange.clusters.len() > 1 {
                let name = "The connection to Entra is dead";
                cases.push(fetched(name, exchange, durations, service, 1));
            }
            cases
        }
        _ => service.map(|_| Case { name: "No token is needed", ..cached(service) }).into_iter().collect(),
    }
}

fn cached(service: Option<u64>) -> Case {
    let mut line = Line::default();
    line.service(service);
    line.end("The token is cached", "The filter adds less than a millisecond.".to_owned())
}

/// The steps of an exchange in which the first `dead` clusters do not answer.
fn fetched(name: &'static str, exchange: &Exchange, durations: &Durations, service: Option<u64>, dead: usize) -> Case {
    let mut line = Line::default();
    for call in &exchange.source_calls {
        line.add(format!("Federated token: {}", call.cluster), "source", durations.source, None);
    }
    let mut is_answered = false;
    for (index, (cluster, timeout)) in exchange.clusters.iter().zip(&exchange.timeouts.calls).enumerate() {
        let length = if index < dead { u64::MAX } else { durations.entra };
        line.add(format!("Access token: {cluster}"), "entra", length, Some(*timeout));
        is_answered = length < *timeout;
        if is_answered {
            break;
        }
    }
    let waited = line.now;
    if waited >= exchange.timeouts.wait {
        let wait = exchange.timeouts.wait;
        return line
            .end(name, format!("The request is answered after {wait} ms (limits.wait), with 504 token_wait_timeout."));
    }
    if !is_answered {
        return line.end(
            name,
            format!("The exchange fails after {waited} ms (limits.exchange), and the request is rejected."),
        );
    }
    line.service(service);
    let all = "All requests that need the token wait for this one exchange.";
    line.end(name, format!("The request waits {waited} ms for the token. {all}"))
}

/// Steps, one after the other.
#[derive(Debug, Default)]
struct Line {
    steps: Vec<Step>,
    now: u64,
}

impl Line {
    fn add(&mut self, name: String, kind: &'static str, length: u64, timeout: Option<u64>) {
        let is_lost = timeout.is_some_and(|timeout| length >= timeout);
        let length = length.min(timeout.unwrap_or(u64::MAX));
        self.steps.push(Step { name, kind, start: self.now, length, timeout, is_lost });
        self.now = self.now.saturating_add(length);
    }

    fn service(&mut self, length: Option<u64>) {
        if let Some(length) = length {
            self.add("Service".to_owned(), "service", length, None);
        }
    }

    fn end(self, name: &'static str, result: String) -> Case {
        Case { name, result, steps: self.steps, total: self.now }
    }
}

#[cfg(test)]
mod tests {
    use operator::Source;
    use operator::explain::{Question, explain};

    use super::*;

    fn cases(url: &str, durations: Durations) -> Vec<Case> {
        let source = Source::new("x", include_str!("../../../envoy/configuration/sidecar.json"));
        let explained =
            explain(&[source], &[], &Question { method: "GET".to_owned(), url: url.to_owned(), ..Question::default() });
        explained.map(|explained| of(&explained, &durations)).unwrap_or_default()
    }

    fn totals(url: &str, durations: Durations) -> Vec<(usize, u64)> {
        cases(url, durations).iter().map(|case| (case.steps.len(), case.total)).collect()
    }

    const LISTED: &str = "http://payments-kv.vault.azure.net/";

    #[test]
    fn a_cached_token_takes_no_call_and_a_dead_connection_the_timeout_of_its_call() {
        assert_eq!(totals(LISTED, Durations::default()), [(1, 20), (3, 122), (4, 3122)]);
        assert_eq!(totals("http://elsewhere.example/", Durations::default()), [(1, 20)]);
    }

    #[test]
    fn an_exchange_that_takes_too_long_has_no_service_after_it() {
        let slow = Durations { entra: 60_000, ..Durations::default() };
        let cases = cases(LISTED, slow);
        let fetched = cases.get(1);
        assert_eq!(fetched.map(|case| case.total), Some(10_002));
        assert!(fetched.is_some_and(|case| case.steps.iter().all(|step| step.kind != "service")));
        assert!(fetched.is_some_and(|case| case.result.contains("limits.exchange")), "{fetched:?}");
        let slow_source = Durations { source: 20_000, ..Durations::default() };
        let results: Vec<String> = self::cases(LISTED, slow_source).into_iter().map(|case| case.result).collect();
        assert!(results.iter().any(|result| result.contains("token_wait_timeout")), "{results:?}");
    }
}
