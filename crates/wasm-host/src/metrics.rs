//! Metrics: shared by name in the process, and identified by VM-specific ids.

use std::collections::{BTreeMap, HashMap};

use crate::status::Status;

/// All metrics of a process. VMs that define a metric of the same name share it.
#[derive(Default)]
pub(crate) struct Metrics(BTreeMap<String, Metric>);

/// A metric's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// A value that only increases.
    Counter(u64),
    /// The last value that was set.
    Gauge(u64),
    /// All recorded values, in order.
    Histogram(Vec<u64>),
}

/// The metrics that one VM has defined.
#[derive(Default)]
pub(crate) struct Defined {
    names: HashMap<u32, String>,
}

/// The mask of a metric id's lower two bits, which encode its type.
const KIND: u32 = 0b11;

impl Metrics {
    pub(crate) fn get(&self, name: &str) -> Option<Metric> {
        self.0.get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    pub(crate) fn define(&mut self, defined: &mut Defined, kind: u32, name: String) -> Result<u32, Status> {
        let new = match kind {
            0 => Metric::Counter(0),
            1 => Metric::Gauge(0),
            2 => Metric::Histogram(Vec::new()),
            _ => return Err(Status::BadArgument),
        };
        self.0.entry(name.clone()).or_insert(new);
        let number = (u32::try_from(defined.names.len()).unwrap_or(u32::MAX >> 2) << 2) | kind;
        defined.names.insert(number, name);
        Ok(number)
    }

    pub(crate) fn increment(&mut self, defined: &Defined, number: u32, offset: i64) -> Result<(), Status> {
        match self.metric(defined, number) {
            Some(Metric::Counter(value)) if offset > 0 => *value += offset.unsigned_abs(),
            Some(Metric::Counter(_) | Metric::Histogram(_)) => return Err(Status::BadArgument),
            Some(Metric::Gauge(value)) => *value = value.saturating_add_signed(offset),
            None if number & KIND > 1 => return Err(Status::BadArgument),
            None => return Err(Status::NotFound),
        }
        Ok(())
    }

    pub(crate) fn record(&mut self, defined: &Defined, number: u32, value: u64) -> Result<(), Status> {
        match self.metric(defined, number) {
            Some(Metric::Counter(count)) => *count += value,
            Some(Metric::Gauge(gauge)) => *gauge = value,
            Some(Metric::Histogram(values)) => values.push(value),
            None => return Err(Status::NotFound),
        }
        Ok(())
    }

    /// Reads a counter or a gauge; a histogram cannot be read.
    pub(crate) fn read(&mut self, defined: &Defined, number: u32) -> Result<u64, Status> {
        match self.metric(defined, number) {
            Some(Metric::Counter(value) | Metric::Gauge(value)) => Ok(*value),
            Some(Metric::Histogram(_)) => Err(Status::BadArgument),
            None if number & KIND > 1 => Err(Status::BadArgument),
            None => Err(Status::NotFound),
        }
    }

    fn metric(&mut self, defined: &Defined, number: u32) -> Option<&mut Metric> {
        self.0.get_mut(defined.names.get(&number)?)
    }
}
