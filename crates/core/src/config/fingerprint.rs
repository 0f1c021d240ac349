//! The hash of a configuration.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The SHA-256 of a configuration's text. Comparing it shows whether two proxies have the same configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of the bytes of a text.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// The fingerprint in hexadecimal, as `sha256sum` prints it.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// The first six bytes as a number. A metric's value cannot hold more without loss (53 bits in IEEE 754).
    pub(crate) fn number(&self) -> u64 {
        self.0.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
