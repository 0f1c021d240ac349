//! The metrics that a worker has defined at its host.

use std::collections::HashMap;

use super::host::{Host, MetricId};
use crate::metrics::{self, Kind, Measurement, Outcome};
use crate::problem::Code;
use crate::request_log::RequestRecord;

/// The metrics that one worker has defined. Envoy keeps each metric once for the whole process.
#[derive(Default)]
pub(super) struct Meters {
    by_name: HashMap<String, MetricId>,
    /// The request counters, which are found without building a metric name for each request. There are few identities.
    requests: Vec<RequestCounter>,
}

/// A request counter and its tags.
struct RequestCounter {
    identity: String,
    outcome: Outcome,
    code: Option<Code>,
    metric: MetricId,
}

impl Meters {
    /// Counts a request.
    pub(super) fn count(&mut self, record: &RequestRecord<'_>, host: &mut dyn Host) {
        let (identity, outcome, code) = (record.identity(), record.outcome, record.code());
        let is_same = |counter: &&RequestCounter| {
            (counter.outcome, counter.code) == (outcome, code) && counter.identity == identity
        };
        if let Some(counter) = self.requests.iter().find(is_same) {
            return host.record(counter.metric, Kind::Counter, 1);
        }
        let measurement = metrics::request(identity, outcome, code);
        if let Some(metric) = self.record(&measurement, host) {
            self.requests.push(RequestCounter { identity: identity.to_owned(), outcome, code, metric });
        }
    }

    /// Records a value. Returns the metric's number.
    pub(super) fn record(&mut self, measurement: &Measurement, host: &mut dyn Host) -> Option<MetricId> {
        let Measurement { kind, name, value } = measurement;
        let metric = match self.by_name.get(name) {
            Some(metric) => *metric,
            None => {
                let metric = host.metric(*kind, name)?;
                self.by_name.insert(name.clone(), metric);
                metric
            }
        };
        host.record(metric, *kind, *value);
        Some(metric)
    }
}
