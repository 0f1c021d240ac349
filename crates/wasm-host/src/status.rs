//! What a host call returns to the guest (`WasmResult`).

/// Anything but success.
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

/// The number that the guest sees.
pub(crate) const fn code(result: Result<(), Status>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(status) => status as u32,
    }
}
