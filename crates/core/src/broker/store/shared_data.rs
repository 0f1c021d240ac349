//! Envoy's shared data, and the names of the shelves in it.

/// Envoy's shared data: the memory that all VMs of a process share.
pub trait SharedData {
    /// Returns the value of a name and its compare-and-set number, or `None` if the name has never been set.
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)>;

    /// Sets a value. With `cas`, only if the compare-and-set number is still this one. Returns whether the value was set.
    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool;
}

/// The prefix of all names. It contains the version of the entries' format, so a module with another format neither reads nor changes
/// these entries.
#[cfg(not(feature = "next"))]
pub(crate) const PREFIX: &str = "entra-exchange/8/";
/// The prefix of a module of another version, for the upgrade tests.
#[cfg(feature = "next")]
pub(crate) const PREFIX: &str = "entra-exchange/next/";

/// The name of the shelf for sources, with the prefix of any version.
pub(super) fn source_shelf(prefix: &str) -> String {
    format!("{prefix}sources")
}

/// The names of all shelves, with the prefix of any version.
pub(super) fn shelf_names(prefix: &str) -> impl Iterator<Item = String> {
    let of_tokens = (0..=u8::MAX).map(|number| token_shelf(prefix, number));
    let of_credentials = (0..CREDENTIAL_SHELVES).map(|number| credential_shelf(prefix, number));
    of_tokens.chain(of_credentials).chain([source_shelf(prefix)])
}

/// The number of shelves for credentials; there are 256 for tokens.
pub(super) const CREDENTIAL_SHELVES: u8 = 16;

/// The name of a shelf for credentials, with the prefix of any version.
pub(super) fn credential_shelf(prefix: &str, number: u8) -> String {
    format!("{prefix}credential/{number:x}")
}

/// The name of a shelf for tokens, with the prefix of any version.
pub(super) fn token_shelf(prefix: &str, number: u8) -> String {
    format!("{prefix}{number:02x}")
}
