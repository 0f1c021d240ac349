//! Memory that all VMs of a process share: `shared_data.cc` of Envoy's proxy-wasm host, with its oddities.

use std::collections::HashMap;

use crate::status::Status;

/// Values by name. A name never goes away: a guest that removes one stores an empty value.
#[derive(Default)]
pub(crate) struct SharedData {
    values: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    /// One row of numbers for all names.
    last_cas: u32,
}

impl SharedData {
    pub(crate) fn get(&self, name: &[u8]) -> Result<(Vec<u8>, u32), Status> {
        self.values.get(name).cloned().ok_or(Status::NotFound)
    }

    /// A name that is not there takes any value, whatever the number given; number 0 sets without looking.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8], cas: u32) -> Result<(), Status> {
        if let Some((_, present)) = self.values.get(name)
            && cas != 0
            && cas != *present
        {
            return Err(Status::CasMismatch);
        }
        self.last_cas += 1;
        self.values.insert(name.to_vec(), (value.to_vec(), self.last_cas));
        Ok(())
    }
}
