//! How a stack starts.

use std::path::PathBuf;

use serde_json::Value;

use crate::Layout;
use crate::workload::{AUTHORITY_HOST, CLIENT_ID, IDENTITY_HEADER, TENANT_ID};

/// A change to Envoy's document after the substitutions and before the start.
pub type Edit = Box<dyn FnOnce(&mut Value) + Send>;

/// How a stack starts. The default is what an operator deploys, with two workers.
pub struct Options {
    /// Envoy's workers.
    pub concurrency: u32,
    /// The filter's configuration, as JSON, when not the one in `envoy.yaml`.
    pub configuration: Option<String>,
    /// How the token's volume is laid out.
    pub layout: Layout,
    /// The first token, when not a correct one.
    pub token: Option<String>,
    /// The Envoy binary, when not [`envoy::binary`](crate::envoy::binary).
    pub envoy: Option<PathBuf>,
    /// The filter, when not `dist/entra-exchange.wasm`.
    pub module: Option<PathBuf>,
    /// All variables of Envoy's process. The filter sees of them those that `envoy.yaml` lists.
    pub environment: Vec<(String, String)>,
    /// Envoy's log level. From `warning` up, the filter's own `info` lines are missing too.
    pub log_level: String,
    /// Delivers the listeners from a file, so that
    /// [`Stack::push_configuration`](crate::Stack::push_configuration) can replace the filter's configuration.
    pub lds: bool,
    /// Changes Envoy's document:
    /// [`document::set`](crate::document::set) and [`document::at_mut`](crate::document::at_mut) reach into it.
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
    /// What the filter reads from a variable of Envoy's process; `None` removes the variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: Option<&str>) -> Self {
        self.environment.retain(|(present, _)| present != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self
    }
}
