//! Envoy's numbers for our metrics.

use std::cell::RefCell;
use std::collections::HashMap;

use entra_exchange_abi::hostcalls::{self, MetricType};
use entra_exchange_core::metrics::{self, Kind, Measurement, Outcome};
use entra_exchange_core::problem::Code;
use entra_exchange_core::request_log::RequestRecord;

/// The metrics that this VM has defined. Envoy has each of them once for the whole process.
#[derive(Default)]
pub(crate) struct Meters {
    by_name: RefCell<HashMap<String, u32>>,
    /// Those that count requests, so that no name is put together for each of them. There are few identities.
    requests: RefCell<Vec<RequestCounter>>,
}

/// A counter of requests, by its tags.
struct RequestCounter {
    identity: String,
    outcome: Outcome,
    code: Option<Code>,
    number: u32,
}

impl Meters {
    /// Counts a request.
    pub(crate) fn count(&self, record: &RequestRecord<'_>) {
        let (identity, outcome, code) = (record.identity(), record.outcome, record.code());
        let mut known = self.requests.borrow_mut();
        let is_same = |counter: &&RequestCounter| {
            (counter.outcome, counter.code) == (outcome, code) && counter.identity == identity
        };
        if let Some(counter) = known.iter().find(is_same) {
            let _ = hostcalls::increment_metric(counter.number, 1);
            return;
        }
        let measurement = metrics::request(identity, outcome, code);
        self.record(&measurement);
        if let Some(number) = self.number(&measurement) {
            known.push(RequestCounter { identity: identity.to_owned(), outcome, code, number });
        }
    }

    /// Takes a value.
    pub(crate) fn record(&self, measurement: &Measurement) {
        let Some(number) = self.number(measurement) else { return };
        let _ = match measurement.kind {
            Kind::Counter | Kind::Sum => hostcalls::increment_metric(number, measurement.value),
            Kind::Gauge | Kind::Histogram => {
                hostcalls::record_metric(number, u64::try_from(measurement.value).unwrap_or_default())
            }
        };
    }

    /// Envoy's number for a metric.
    fn number(&self, measurement: &Measurement) -> Option<u32> {
        let mut known = self.by_name.borrow_mut();
        if let Some(number) = known.get(&measurement.name) {
            return Some(*number);
        }
        let metric_type = match measurement.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Sum | Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let number = hostcalls::define_metric(metric_type, &measurement.name).ok()?;
        known.insert(measurement.name.clone(), number);
        Some(number)
    }
}
