//! The configuration: JSON, parsed once into types that hold only valid values.
//!
//! A mistake in the JSON rejects the configuration; all mistakes are reported at once. A missing environment variable rejects
//! only the requests that need it, so that one forgotten annotation does not remove a proxy's listener.

mod assertions;
mod azure_service;
mod declared;
mod destinations;
mod entra;
mod fields;
mod fingerprint;
mod identities;
mod log;
mod managed_identity;
mod object;
mod reader;
mod schema;
mod sections;
mod settings;
mod shapes;
mod shared_suffixes;
mod summary;
mod treatment;
mod tree;
mod types;
mod variables;
mod warnings;

pub use fingerprint::Fingerprint;
pub use log::Log;
pub use reader::Mistake;
pub use schema::{field_table, schema};
pub(crate) use settings::ExistingCredential;
pub use summary::{DestinationSummary, IdentitySummary};
pub(crate) use types::{
    AppService, Destination, DestinationAction, Identity, Imds, InjectionConfig, ManagedAction, ManagedIdentity,
    Status, Token, TokenOwner,
};
pub use types::{Config, Refused};

use crate::time::Timestamp;
use reader::{Mistakes, Path, Value};
use tree::Node;

impl Config {
    /// Whether a destination or the managed-identity endpoint uses the identity with this index.
    pub(crate) fn uses(&self, index: usize) -> bool {
        warnings::uses(index, &self.destinations, self.managed_identity.as_ref())
    }

    /// Parses the text of a configuration, which is JSON. `variable` returns the value of an environment variable.
    ///
    /// # Errors
    /// All mistakes in the text, each with its path, what was found, and what was expected.
    pub fn parse(text: &[u8], variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Refused> {
        let mut mistakes = Mistakes::default();
        let tree = Node::parse(text).map_err(|error| {
            mistakes.add("", not_json(text, &error));
            Refused(std::mem::take(&mut mistakes.0))
        })?;
        let root = |node| Value { path: &Path::Root, node };
        let config = sections::read(root(&tree), variable, &mut mistakes);
        let with_last_duplicates = tree.with_last_duplicates();
        if with_last_duplicates != tree {
            // Each of two duplicate fields is read, so that neither hides a mistake in the other.
            let mut others = Mistakes::default();
            sections::read(root(&with_last_duplicates), variable, &mut others);
            others.0.retain(|other| !mistakes.0.contains(other));
            mistakes.0.append(&mut others.0);
        }
        match config {
            Some(config) if mistakes.0.is_empty() => Ok(Self { fingerprint: Fingerprint::of(text), ..config }),
            _ => Err(Refused(mistakes.0)),
        }
    }

    /// Warnings about settings that have no effect at `now`, one sentence each.
    pub fn warnings_at(&self, now: Timestamp) -> Vec<String> {
        let is_in_future = |identity: &&Identity| {
            identity.client.as_ref().is_ok_and(|client| client.discard_before.is_some_and(|before| before > now))
        };
        let in_future = self.identities.iter().filter(is_in_future);
        in_future
            .map(|Identity { index, name, .. }| {
                format!(
                    "identities[{index}].discard_tokens_before ({name}) is in the future and has no effect until then; set the \
                     time at which the roles changed"
                )
            })
            .collect()
    }
}

/// The message that the configuration is not valid JSON.
fn not_json(text: &[u8], error: &serde_json::Error) -> String {
    match text {
        text if text.iter().all(u8::is_ascii_whitespace) => {
            "the configuration is empty: add destinations, managed_identity, or both".to_owned()
        }
        [0xef, 0xbb, 0xbf, ..] => {
            "the configuration begins with a byte order mark: save it as UTF-8 without one".to_owned()
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            "the configuration is encoded as UTF-16: save it as UTF-8".to_owned()
        }
        _ => format!(
            "the configuration is not valid JSON: {error}. Write it as JSON text in a google.protobuf.StringValue"
        ),
    }
}

#[cfg(test)]
mod tests;
