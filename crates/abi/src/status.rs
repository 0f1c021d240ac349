//! The status that a host call returns.

/// The status of a host call that failed (`proxy_status_t`). A host may return values that have no constant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u32);

impl Status {
    /// The header, property, key or queue does not exist.
    pub const NOT_FOUND: Self = Self(1);
    /// An argument is invalid. For an HTTP call: the cluster does not exist.
    pub const BAD_ARGUMENT: Self = Self(2);
    /// The queue is empty.
    pub const EMPTY: Self = Self(7);
    /// Another VM changed the shared data in the meantime.
    pub const CAS_MISMATCH: Self = Self(8);

    pub(crate) const fn check(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            code => Err(Self(code)),
        }
    }
}
