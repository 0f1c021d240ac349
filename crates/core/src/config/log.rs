//! The section `log`.

use super::fields::settings;
use super::shapes::{Choice, Switch, Words};
use crate::event::Level;

settings! {
    /// The settings of the log: the minimum level of each kind of line. `None` disables the lines.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Log of LogFields {
        /// level of the log line of each exchange: `info`, `warn` or `never`. Istio's default log level hides `info` lines
        exchanges: Option<Level> = Some(Level::Info), Choice<LineLevel>;
        /// level of a log line for each request that concerns the filter: `info`, `warn` or `never`
        requests: Option<Level> = None, Choice<LineLevel>;
        /// `true` sets the filter state `wasm.entra_exchange` for access logs on every request that concerns the filter, not only on
        /// rejected ones
        access: bool = false, Switch;
    }
}

/// The level of a kind of log line.
pub(super) enum LineLevel {}

impl Words for LineLevel {
    type Value = Option<Level>;
    const WORDS: &'static [(&'static str, Option<Level>)] =
        &[("info", Some(Level::Info)), ("warn", Some(Level::Warn)), ("never", None)];
}
