//! The records of requests: the value for access logs, the response code details and the log line.

use std::time::Duration;

use crate::config::Log;
use crate::config_path::ConfigPath;
use crate::event::{Event, Level};
use crate::metrics::Outcome;
use crate::problem::{Code, Problem};
use crate::small_map::SmallMap;
use crate::time::Timestamp;
use crate::untrusted::UntrustedText;

/// The filter state that access logs read, as `%FILTER_STATE(wasm.entra_exchange:PLAIN)%`.
pub const ACCESS_LOG_KEY: &str = "entra_exchange";

/// The value of `identity` in metrics and logs if the identity is not known.
const UNKNOWN: &str = "unknown";

/// A rejected request is logged at least this often for each code and each part of the configuration that rejects.
const PERIOD: Duration = Duration::from_secs(60);

/// The maximum number of pairs of code and part of the configuration that are tracked. If there are more, expired pairs are
/// removed.
const MOST_PAIRS: usize = 256;

/// The maximum length in bytes of a host in a log line; the client controls it.
const LONGEST_HOST: usize = 255;

/// The record of one request.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The outcome.
    pub outcome: Outcome,
    /// The identity's name, if known.
    pub identity: Option<&'a str>,
    /// The part of the configuration that decided.
    pub decided_by: Option<ConfigPath>,
    /// Why the request was rejected, or why no token was available.
    pub problem: Option<&'a Problem>,
    /// The HTTP status of the reply, if the filter answered.
    pub status: Option<u16>,
    /// The code with which the request would be rejected if its action were not `report`.
    pub would_refuse: Option<Code>,
    /// The names of the credentials that the request carries and keeps.
    pub credential: Option<&'a str>,
}

impl<'a> RequestRecord<'a> {
    /// A record with an outcome and an identity only.
    pub const fn new(outcome: Outcome, identity: Option<&'a str>) -> Self {
        Self { outcome, identity, decided_by: None, problem: None, status: None, would_refuse: None, credential: None }
    }

    /// The record of a request that was rejected with this problem and HTTP status.
    pub fn refused(problem: &'a Problem, decided_by: ConfigPath, status: u16) -> Self {
        Self {
            decided_by: Some(decided_by),
            problem: Some(problem),
            status: Some(status),
            ..Self::new(Outcome::Refused, problem.identity.as_deref())
        }
    }

    /// The identity's name, or `unknown`.
    pub fn identity(&self) -> &'a str {
        self.identity.unwrap_or(UNKNOWN)
    }

    /// The problem's code, if the outcome is `refused` or `failed`.
    pub fn code(&self) -> Option<Code> {
        let ended_badly = matches!(self.outcome, Outcome::Refused | Outcome::Failed);
        self.problem.filter(|_| ended_badly).map(|problem| problem.code)
    }

    /// The value for access logs: `outcome=… identity=…`, and `code=…` for a request that was refused or failed.
    fn access_log_value(&self) -> String {
        let value = format!("outcome={} identity={}", self.outcome.as_str(), self.identity());
        self.code().map_or(value.clone(), |code| format!("{value} code={}", code.as_str()))
    }

    fn event(&self, host: Option<Vec<u8>>) -> Event {
        let host = host.map(|host| shown_host(&host));
        let code = self.problem.map(|problem| problem.code.as_str());
        let scope = self.problem.and_then(|problem| problem.scope.as_deref());
        Event::info("request")
            .with("outcome", self.outcome.as_str())
            .with_some("code", code)
            .with_some("status", self.status)
            .with("identity", self.identity())
            .with_some("would_refuse", self.would_refuse.map(Code::as_str))
            .with_some("decided_by", self.decided_by)
            .with_some("host", host)
            .with_some("scope", scope)
            .with_some("credential", self.credential)
            .with_some("detail", self.problem.map(|problem| problem.detail.as_str()))
    }
}

/// A host for a log line: sanitized and truncated, because the client controls it.
pub(crate) fn shown_host(host: &[u8]) -> UntrustedText {
    UntrustedText::new(&String::from_utf8_lossy(host.get(..LONGEST_HOST).unwrap_or(host)))
}

/// `entra_exchange{cluster_not_listed}`: the reason of a local reply, as Envoy's response code details name it.
pub fn response_code_details(code: Code) -> String {
    format!("entra_exchange{{{}}}", code.as_str())
}

/// Decides what is logged about requests. Each worker has its own and limits its own lines.
#[derive(Debug)]
pub struct RequestLog {
    settings: Log,
    recent: SmallMap<(Code, Option<ConfigPath>), Recent>,
}

/// When a pair of code and part was last logged at `warn`, and how many of its requests were not logged since.
#[derive(Debug)]
struct Recent {
    at: Timestamp,
    more: u64,
}

impl RequestLog {
    /// A log that follows these settings.
    pub fn new(settings: Log) -> Self {
        Self { settings, recent: SmallMap::default() }
    }

    /// Returns the value to set under [`ACCESS_LOG_KEY`], if any: always for a request that was refused or failed, for others
    /// if `log.access` is set, because setting it is a call into the proxy.
    pub fn access_log_value(&self, record: &RequestRecord<'_>) -> Option<String> {
        (self.settings.access || record.code().is_some()).then(|| record.access_log_value())
    }

    /// Returns the line to log about a request, if any.
    ///
    /// A request that was refused or failed is logged at `warn` once a minute for each code and part of the configuration,
    /// with the number of those that were not logged since (`more`). `log.requests` sets the level of all other requests.
    ///
    /// `host` and `now` are called at most once, and only for a line or a rejected request: each is a call into the proxy.
    pub fn line(
        &mut self,
        record: &RequestRecord<'_>,
        host: impl FnOnce() -> Option<Vec<u8>>,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Event> {
        let due = record.code().and_then(|code| self.is_due(code, record.decided_by, now()));
        match (due, self.settings.requests) {
            (Some(more), level) => {
                let more = (more > 0).then_some(more);
                let event = record.event(host()).with_some("more", more);
                Some(event.at_least(level.unwrap_or(Level::Warn)).at_least(Level::Warn))
            }
            (None, Some(level)) => Some(record.event(host()).at_least(level)),
            (None, None) => None,
        }
    }

    /// Returns the number of requests that were not logged since the last line, if another line is due.
    fn is_due(&mut self, code: Code, decided_by: Option<ConfigPath>, now: Timestamp) -> Option<u64> {
        let has_expired = |recent: &Recent| now.since(recent.at) >= PERIOD || now < recent.at;
        let pair = (code, decided_by);
        if let Some(recent) = self.recent.get_mut(&pair) {
            if !has_expired(recent) {
                recent.more = recent.more.saturating_add(1);
                return None;
            }
            let more = std::mem::take(&mut recent.more);
            recent.at = now;
            return Some(more);
        }
        if self.recent.len() >= MOST_PAIRS {
            self.recent.retain(|recent| !has_expired(recent));
        }
        if self.recent.len() >= MOST_PAIRS {
            return None;
        }
        self.recent.insert(pair, Recent { at: now, more: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    const NEVER: Log = Log { exchanges: None, requests: None, access: false };
    const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);

    static NOT_LISTED: LazyLock<Problem> = LazyLock::new(|| problem(Code::ClusterNotListed));
    static BY_RULE: LazyLock<Problem> = LazyLock::new(|| problem(Code::RefusedByRule));
    static UNAVAILABLE: LazyLock<Problem> = LazyLock::new(|| problem(Code::EntraUnavailable));

    fn problem(code: Code) -> Problem {
        Problem::new(code, "it was routed to \"x\"", "Route it elsewhere.")
    }

    fn refused(problem: &Problem, destination: usize) -> RequestRecord<'_> {
        RequestRecord {
            decided_by: Some(ConfigPath::Destination(destination)),
            problem: Some(problem),
            status: Some(403),
            ..RequestRecord::new(Outcome::Refused, None)
        }
    }

    fn line(log: &mut RequestLog, record: &RequestRecord<'_>, seconds: u64) -> Option<String> {
        let now = || NOW.plus(Duration::from_secs(seconds));
        let host = || Some(b"kv.example".to_vec());
        log.line(record, host, now).map(|event| format!("{:?} {event}", event.level))
    }

    #[test]
    fn a_rejected_request_is_logged_once_a_minute_for_each_code_and_destination() {
        let mut log = RequestLog::new(NEVER);
        let record = refused(&NOT_LISTED, 1);
        let expected = "Warn event=request outcome=refused code=cluster_not_listed status=403 identity=unknown \
                        decided_by=destinations[1] host=kv.example";
        let detail = r#"detail="it was routed to \"x\"""#;
        assert_eq!(line(&mut log, &record, 0).unwrap(), format!("{expected} {detail}"));
        assert_eq!(line(&mut log, &record, 1), None);
        assert_eq!(line(&mut log, &record, 59), None);
        assert!(line(&mut log, &refused(&NOT_LISTED, 2), 59).is_some(), "another destination");
        assert!(line(&mut log, &refused(&BY_RULE, 1), 59).is_some(), "another code");
        assert_eq!(line(&mut log, &record, 60).unwrap(), format!("{expected} {detail} more=2"));
        assert_eq!(line(&mut log, &record, 61), None);
    }

    #[test]
    fn a_clock_that_was_set_back_suppresses_no_line() {
        let mut log = RequestLog::new(NEVER);
        let record = refused(&NOT_LISTED, 1);
        assert!(line(&mut log, &record, 3600).is_some());
        assert!(line(&mut log, &record, 0).is_some());
    }

    #[test]
    fn a_configured_level_logs_every_request_and_one_rejected_request_a_minute_at_warn() {
        let mut log = RequestLog::new(Log { requests: Some(Level::Info), ..NEVER });
        let record = refused(&NOT_LISTED, 1);
        assert!(line(&mut log, &record, 0).unwrap().starts_with("Warn"));
        assert!(line(&mut log, &record, 1).unwrap().starts_with("Info"));
        let injected = RequestRecord::new(Outcome::Injected, Some("payments"));
        let expected = "Info event=request outcome=injected identity=payments host=kv.example";
        assert_eq!(line(&mut log, &injected, 1).unwrap(), expected);
        assert_eq!(line(&mut RequestLog::new(NEVER), &injected, 1), None);
    }

    #[test]
    fn the_number_of_tracked_pairs_is_bounded_and_expired_ones_are_removed() {
        let mut log = RequestLog::new(NEVER);
        for number in 0..MOST_PAIRS {
            assert!(line(&mut log, &refused(&BY_RULE, number), 0).is_some());
        }
        assert_eq!(line(&mut log, &refused(&BY_RULE, MOST_PAIRS), 1), None);
        assert!(line(&mut log, &refused(&BY_RULE, MOST_PAIRS), 60).is_some());
        assert!(log.recent.len() <= MOST_PAIRS);
    }

    #[test]
    fn a_rejected_request_always_has_an_access_log_value_and_others_have_one_if_configured() {
        let quiet = RequestLog::new(NEVER);
        let all = RequestLog::new(Log { access: true, ..NEVER });
        let record = refused(&NOT_LISTED, 1);
        let value = Some("outcome=refused identity=unknown code=cluster_not_listed".to_owned());
        assert_eq!((quiet.access_log_value(&record), all.access_log_value(&record)), (value.clone(), value));
        let injected = RequestRecord::new(Outcome::Injected, Some("payments"));
        assert_eq!(quiet.access_log_value(&injected), None);
        assert_eq!(all.access_log_value(&injected).unwrap(), "outcome=injected identity=payments");
    }

    #[test]
    fn a_request_that_passed_without_a_token_has_no_code_in_metrics_but_in_its_line() {
        let passed = RequestRecord { outcome: Outcome::Passed, ..refused(&UNAVAILABLE, 0) };
        assert_eq!(passed.code(), None);
        let mut log = RequestLog::new(Log { requests: Some(Level::Info), ..NEVER });
        assert!(line(&mut log, &passed, 0).unwrap().contains("code=entra_unavailable"));
    }

    #[test]
    fn a_host_in_a_line_is_sanitized() {
        let record = RequestRecord { status: Some(403), ..RequestRecord::new(Outcome::Refused, None) };
        let host = Some(b"evil\x7f\n event=exchange\xe2\x80\xae outcome=issued\xff".to_vec());
        let line = record.event(host).to_string();
        assert!(line.contains("evil") && !line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    }

    #[test]
    fn a_host_in_a_line_is_bounded() {
        let mut log = RequestLog::new(NEVER);
        let record = refused(&NOT_LISTED, 1);
        let event = log.line(&record, || Some(vec![b'a'; 60_000]), || NOW).unwrap();
        assert!(event.to_string().len() < 500);
    }

    #[test]
    fn response_code_details_name_the_code() {
        assert_eq!(response_code_details(Code::ClusterNotListed), "entra_exchange{cluster_not_listed}");
    }
}
