//! Envoy's numbers for our metrics.

use std::cell::RefCell;
use std::collections::HashMap;

use entra_exchange_core::metrics::{Kind, Measurement};
use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

/// The metrics that this VM has defined, by name. Envoy has each of them once for the whole process.
#[derive(Default)]
pub(crate) struct Meters(RefCell<HashMap<String, u32>>);

impl Meters {
    /// Takes a value.
    pub(crate) fn take(&self, measurement: &Measurement) {
        let mut known = self.0.borrow_mut();
        let number = match known.get(&measurement.name) {
            Some(number) => *number,
            None => {
                let metric_type = match measurement.kind {
                    Kind::Counter => MetricType::Counter,
                    Kind::Sum | Kind::Gauge => MetricType::Gauge,
                    Kind::Histogram => MetricType::Histogram,
                };
                let Ok(number) = hostcalls::define_metric(metric_type, &measurement.name) else { return };
                known.insert(measurement.name.clone(), number);
                number
            }
        };
        let _ = match measurement.kind {
            Kind::Counter | Kind::Sum => hostcalls::increment_metric(number, measurement.value),
            Kind::Gauge | Kind::Histogram => {
                hostcalls::record_metric(number, u64::try_from(measurement.value).unwrap_or_default())
            }
        };
    }
}
