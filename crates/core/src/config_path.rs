//! The parts of a configuration that decide about requests.

use std::fmt;

/// The part of the configuration that decided about a request, displayed as its path in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigPath {
    /// `destinations`: several of them may match, and the request is ambiguous.
    Destinations,
    /// `destinations[index]`
    Destination(usize),
    /// `managed_identity.imds`
    Imds,
    /// `managed_identity.app_service`
    AppService,
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destinations => formatter.write_str("destinations"),
            Self::Destination(index) => write!(formatter, "destinations[{index}]"),
            Self::Imds => formatter.write_str("managed_identity.imds"),
            Self::AppService => formatter.write_str("managed_identity.app_service"),
        }
    }
}
