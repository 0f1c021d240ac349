//! The status of the loaded configuration, for Envoy's log, the status page and metrics.

use std::time::Duration;

use crate::broker::Store;
use crate::config::{Config, Fingerprint, Refused};
use crate::entra::TokenKey;
use crate::event::Event;
use crate::metrics::{self, Measurement};
use crate::time::Timestamp;

/// The status of an accepted configuration.
#[derive(Clone, Debug)]
pub struct ConfigurationStatus {
    fingerprint: Fingerprint,
    identities: usize,
    destinations: usize,
    warnings: Vec<String>,
    /// The tokens that the configuration names, whether they were requested yet or not.
    pub(crate) tokens: Vec<ConfiguredToken>,
}

/// A token that a configuration names.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredToken {
    pub(crate) key: TokenKey,
    pub(crate) identity: String,
    pub(crate) scope: String,
}

/// The configuration's part of the status page.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) sha256: String,
    pub(crate) warnings: &'a [String],
}

impl ConfigurationStatus {
    /// The status of `config`.
    pub fn new(config: &Config) -> Self {
        let mut tokens: Vec<ConfiguredToken> = Vec::new();
        for (identity, scope) in config.named_tokens() {
            if let Ok(spec) = identity.spec(&scope)
                && tokens.iter().all(|token| token.key != spec.key())
            {
                tokens.push(ConfiguredToken { key: spec.key(), identity: identity.name.clone(), scope });
            }
        }
        // A destination with several scopes has several entries in the list, all with the same index.
        let destinations = config.destinations.iter().map(|destination| destination.index.saturating_add(1)).max();
        Self {
            fingerprint: config.fingerprint,
            identities: config.identities.len(),
            destinations: destinations.unwrap_or_default(),
            warnings: config.warnings.clone(),
            tokens,
        }
    }

    /// Returns the log lines for an accepted configuration: its warnings, and one line with its fingerprint and size. Every
    /// worker of a process gets the same configuration; only the first one to call this gets lines. `wait` is
    /// the longest wait of its requests.
    pub fn announce(&self, wait: Duration, now: Timestamp, store: &dyn Store) -> Vec<Event> {
        let fingerprint = self.fingerprint.hex();
        if !store.announce(&fingerprint, wait, now) {
            return Vec::new();
        }
        let accepted = Event::info("configuration")
            .with("outcome", "accepted")
            .with("sha256", fingerprint)
            .with("destinations", self.destinations)
            .with("identities", self.identities);
        let warnings = self.warnings.iter().map(|warning| Event::warn("configuration").with("warning", warning));
        warnings.chain([accepted]).collect()
    }

    /// The metrics that identify the configuration and the build of the filter.
    pub fn measurements(&self, version: &str, commit: &str) -> [Measurement; 2] {
        [metrics::configuration_hash(self.fingerprint.number()), metrics::build_info(version, commit)]
    }

    /// The configuration's part of the status page.
    pub(crate) fn shown(&self) -> Shown<'_> {
        Shown { sha256: self.fingerprint.hex(), warnings: &self.warnings }
    }
}

/// Returns the log lines for a rejected configuration: one for each mistake.
pub fn rejection(text: &[u8], refused: &Refused) -> Vec<Event> {
    let fingerprint = Fingerprint::of(text).hex();
    let event = |mistake| {
        Event::error("configuration").with("outcome", "rejected").with("sha256", &fingerprint).with("mistake", mistake)
    };
    refused.0.iter().map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::MemoryStore;

    const TWO: &str = r#"{
        "identities": [{"name": "a", "tenant_id": "t.example", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}, {"name": "b"}],
        "destinations": [
            {"hosts": ["x.example", "y.example"], "scope": "x/.default", "identity": "a", "plaintext": "allow"},
            {"hosts": ["z.example"], "action": "pass"}
        ]
    }"#;

    fn status(text: &str) -> ConfigurationStatus {
        ConfigurationStatus::new(&Config::parse(text.as_bytes(), &|_| None).unwrap())
    }

    #[test]
    fn an_accepted_configuration_is_logged_once_per_process_and_again_when_it_changes() {
        let store = MemoryStore::default();
        let lines = |text: &str| -> Vec<String> {
            status(text)
                .announce(Duration::ZERO, Timestamp::default(), &store)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let first = lines(TWO);
        let hash = Fingerprint::of(TWO.as_bytes()).hex();
        let accepted = format!("event=configuration outcome=accepted sha256={hash} destinations=2 identities=2");
        assert_eq!(first.last().unwrap(), &accepted);
        assert!(first[0].starts_with("event=configuration warning="), "{first:?}");
        assert!(lines(TWO).is_empty());
        let another = TWO.replace("z.example", "q.example");
        assert!(!lines(&another).is_empty());
        assert_eq!(lines(TWO), first);
    }

    #[test]
    fn a_rejected_configuration_is_logged_with_its_fingerprint_and_every_mistake() {
        let text = br#"{"destinations": [{"host": "x"}], "limit": {}}"#;
        let lines: Vec<String> = rejection(text, &Config::parse(text, &|_| None).unwrap_err())
            .iter()
            .map(|event| format!("{:?} {event}", event.level))
            .collect();
        let start =
            format!("Error event=configuration outcome=rejected sha256={} mistake=", Fingerprint::of(text).hex());
        assert!(lines.len() > 1 && lines.iter().all(|line| line.starts_with(&start)), "{lines:?}");
    }

    #[test]
    fn a_fingerprint_equals_the_output_of_sha256sum_and_fits_into_a_metric() {
        let fingerprint = Fingerprint::of(b"abc");
        assert_eq!(fingerprint.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(fingerprint.number(), 0xba78_16bf_8f01);
    }

    #[test]
    fn each_token_that_a_configuration_names_is_listed_once() {
        let tokens: Vec<(String, String)> =
            status(TWO).tokens.into_iter().map(|token| (token.identity, token.scope)).collect();
        assert_eq!(tokens, [("a".to_owned(), "x/.default".to_owned())]);
    }
}
