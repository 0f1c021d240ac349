//! Measures the cost of the filter in a real Envoy (`docs/performance.md`).
//!
//! The cost is the CPU time of Envoy's process per request. What is compared runs in one Envoy, each in a listener of its own, and is
//! measured in turn in several rounds: other processes on the machine disturb all of them alike. Differences and ratios are taken within
//! a round, and the programs print their medians.

pub mod chain;
pub mod connection;
pub mod figures;
pub mod process;
pub mod wrk;

/// The result of a benchmark.
pub type BenchResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
