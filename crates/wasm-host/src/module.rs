//! A compiled module, which any number of hosts can share.

use std::sync::Arc;

use wasmtime::{Config, Engine, InstancePre, Linker};

use crate::state::State;
use crate::{abi, wasi};

/// A proxy-wasm module, compiled. Cheap to clone.
#[derive(Clone)]
pub struct Module(Arc<Compiled>);

struct Compiled {
    engine: Engine,
    instance: InstancePre<State>,
    metered: bool,
}

/// Why a module cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The module is not valid WebAssembly, or imports a function that Envoy does not have.
    #[error("the module cannot be loaded: {0:#}")]
    Load(wasmtime::Error),
    /// The module exports no supported `proxy_abi_version_…`.
    #[error("the module exports neither proxy_abi_version_0_2_0 nor proxy_abi_version_0_2_1")]
    Abi,
}

impl Module {
    /// Compiles a module.
    ///
    /// # Errors
    /// When Envoy would not load the module either.
    pub fn new(bytes: &[u8]) -> Result<Self, ModuleError> {
        Self::compile(bytes, false)
    }

    /// Compiles a module that counts its instructions, which makes it slower. See [`Worker::fuel`](crate::Worker::fuel).
    ///
    /// # Errors
    /// As [`Module::new`].
    pub fn metered(bytes: &[u8]) -> Result<Self, ModuleError> {
        Self::compile(bytes, true)
    }

    fn compile(bytes: &[u8], metered: bool) -> Result<Self, ModuleError> {
        let mut config = Config::new();
        config.consume_fuel(metered);
        let engine = Engine::new(&config).map_err(ModuleError::Load)?;
        let module = wasmtime::Module::new(&engine, bytes).map_err(ModuleError::Load)?;
        if !["proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1"].iter().any(|name| module.get_export(name).is_some())
        {
            return Err(ModuleError::Abi);
        }
        let mut linker = Linker::new(&engine);
        abi::link(&mut linker).map_err(ModuleError::Load)?;
        wasi::link(&mut linker).map_err(ModuleError::Load)?;
        let instance = linker.instantiate_pre(&module).map_err(ModuleError::Load)?;
        Ok(Self(Arc::new(Compiled { engine, instance, metered })))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn instance(&self) -> &InstancePre<State> {
        &self.0.instance
    }

    pub(crate) fn is_metered(&self) -> bool {
        self.0.metered
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Module").field("metered", &self.0.metered).finish_non_exhaustive()
    }
}
