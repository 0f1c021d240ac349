//! The options of a stack.

use std::path::PathBuf;

use serde_json::Value;

use crate::Layout;
use crate::workload::{AUTHORITY_HOST, CLIENT_ID, IDENTITY_HEADER, TENANT_ID};

/// A change to Envoy's configuration after the substitutions and before the start.
pub type Edit = Box<dyn FnOnce(&mut Value) + Send>;

/// The options of a stack. The default is what an operator deploys, with two workers.
pub struct Options {
    /// The number of Envoy's workers.
    pub concurrency: u32,
    /// The filter's configuration as JSON; `None` uses the one in `envoy.yaml`.
    pub configuration: Option<String>,
    /// The layout of the token volume.
    pub layout: Layout,
    /// The first token; `None` creates a valid one.
    pub token: Option<String>,
    /// The Envoy binary; `None` uses [`envoy::binary`](crate::envoy::binary).
    pub envoy: Option<PathBuf>,
    /// The module; `None` uses `dist/entra-exchange.wasm`.
    pub module: Option<PathBuf>,
    /// The complete environment of Envoy's process. The filter can read the variables that `envoy.yaml` lists.
    pub environment: Vec<(String, String)>,
    /// Envoy's log level. `warning` and higher also hide the filter's `info` lines.
    pub log_level: String,
    /// Delivers the listeners by LDS from a file, so that
    /// [`Stack::push_configuration`](crate::Stack::push_configuration) can replace the filter's configuration.
    pub lds: bool,
    /// A change to Envoy's configuration;
    /// [`document::set`](crate::document::set) and [`document::at_mut`](crate::document::at_mut) help to write it.
    pub edit: Option<Edit>,
}

impl Default for Options {
    fn default() -> Self {
        let environment = [
            ("AZURE_TENANT_ID", TENANT_ID),
            ("AZURE_CLIENT_ID", CLIENT_ID),
            ("AZURE_AUTHORITY_HOST", AUTHORITY_HOST),
            ("IDENTITY_HEADER", IDENTITY_HEADER),
        ];
        Self {
            concurrency: 2,
            configuration: None,
            layout: Layout::default(),
            token: None,
            envoy: None,
            module: None,
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            log_level: "info".to_owned(),
            lds: false,
            edit: None,
        }
    }
}

impl Options {
    /// Sets an environment variable of Envoy's process; `None` removes it.
    #[must_use]
    pub fn variable(mut self, name: &str, value: Option<&str>) -> Self {
        self.environment.retain(|(existing, _)| existing != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self
    }
}
