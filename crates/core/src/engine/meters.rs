//! Records measurements at a host.

use super::host::{Host, MetricId};
use crate::metrics::{self, Kind, Measurement, Outcome};
use crate::problem::Code;
use crate::request_log::RequestRecord;

/// The request counters of one worker, which are found without building a metric name for each request. There are few identities.
#[derive(Default)]
pub(super) struct RequestCounters(Vec<RequestCounter>);

/// A request counter and its tags.
struct RequestCounter {
    identity: String,
    outcome: Outcome,
    code: Option<Code>,
    metric: MetricId,
}

impl RequestCounters {
    /// Counts a request.
    pub(super) fn count(&mut self, record: &RequestRecord<'_>, host: &mut dyn Host) {
        let (identity, outcome, code) = (record.identity(), record.outcome, record.code());
        let is_same = |counter: &&RequestCounter| {
            (counter.outcome, counter.code) == (outcome, code) && counter.identity == identity
        };
        if let Some(counter) = self.0.iter().find(is_same) {
            return host.record(counter.metric, Kind::Counter, 1);
        }
        if let Some(metric) = record_new(&metrics::request(identity, outcome, code), host) {
            self.0.push(RequestCounter { identity: identity.to_owned(), outcome, code, metric });
        }
    }
}

/// Records a value.
pub(super) fn record(measurement: &Measurement, host: &mut dyn Host) {
    record_new(measurement, host);
}

/// Records a value, and returns the metric's number.
fn record_new(measurement: &Measurement, host: &mut dyn Host) -> Option<MetricId> {
    let Measurement { kind, name, value } = measurement;
    let metric = host.metric(*kind, name)?;
    host.record(metric, *kind, *value);
    Some(metric)
}
