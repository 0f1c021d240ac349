//! What an operator asks about entra-exchange before and after it ships, as a library: no I/O, no clock, no network.
//!
//! The decisions are those of `entra-exchange-core`, which the filter itself runs. The command `entra-exchange`
//! (`crates/cli`) reads files and prints what this library returns.

pub mod aadsts;
pub mod audit;
mod azure_devops;
mod check;
pub mod credentials;
pub mod detect;
pub mod doctor;
mod document;
mod embedded;
pub mod explain;
mod finding;
mod inventory;
mod json;
pub mod registry;
pub mod render;
pub mod report;
pub mod signature;
mod source;
pub mod source_calls;
pub mod status;
mod times;
pub mod token;
mod token_source;
mod tree;
mod yaml;

pub use azure_devops::is_guid;
pub use check::{Checked, Options, check};
pub use finding::{CODES, Code, Finding, Severity, code};
pub use source::{LONGEST, NotText, Position, Source};
pub use times::length;
pub use token_source::AzureDevOps;
