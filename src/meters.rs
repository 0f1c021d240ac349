//! Envoy's numbers for our metrics.

use std::cell::RefCell;
use std::collections::HashMap;

use entra_exchange_core::metrics::{self, Kind, Measurement, Outcome};
use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

/// The metrics that this VM has defined. Envoy has each of them once for the whole process.
#[derive(Default)]
pub(crate) struct Meters {
    by_name: RefCell<HashMap<String, u32>>,
    /// Those that count requests, so that no name is put together for each of them. There are few identities.
    requests: RefCell<Vec<(String, Outcome, u32)>>,
}

impl Meters {
    /// Counts a request.
    pub(crate) fn count(&self, identity: &str, outcome: Outcome) {
        let mut known = self.requests.borrow_mut();
        let same = |entry: &&(String, Outcome, u32)| entry.1 == outcome && entry.0 == identity;
        if let Some((_, _, number)) = known.iter().find(same) {
            let _ = hostcalls::increment_metric(*number, 1);
            return;
        }
        let measurement = metrics::request(identity, outcome);
        self.take(&measurement);
        if let Some(number) = self.number(&measurement) {
            known.push((identity.to_owned(), outcome, number));
        }
    }

    /// Takes a value.
    pub(crate) fn take(&self, measurement: &Measurement) {
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
