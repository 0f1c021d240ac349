//! Shared data of all VMs of a process, with the quirks of `shared_data.cc` in Envoy's proxy-wasm host.

use std::collections::HashMap;

use crate::status::Status;

/// Values by key. Keys are never removed: a guest that removes one stores an empty value.
#[derive(Default)]
pub(crate) struct SharedData {
    values: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    /// The last CAS number; one sequence for all keys.
    last_cas: u32,
}

impl SharedData {
    pub(crate) fn get(&self, name: &[u8]) -> Result<(Vec<u8>, u32), Status> {
        self.values.get(name).cloned().ok_or(Status::NotFound)
    }

    /// Sets a value. A missing key accepts any CAS number, and CAS number 0 sets unconditionally.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8], cas: u32) -> Result<(), Status> {
        if let Some((_, current)) = self.values.get(name)
            && cas != 0
            && cas != *current
        {
            return Err(Status::CasMismatch);
        }
        self.last_cas += 1;
        self.values.insert(name.to_vec(), (value.to_vec(), self.last_cas));
        Ok(())
    }
}
