//! The status that a host call returns to the guest (`WasmResult`).

/// The status of a host call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
}

/// Returns the numeric status for the guest.
pub(crate) const fn code(result: Result<(), Status>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(status) => status as u32,
    }
}
