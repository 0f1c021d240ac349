//! Listeners that Envoy reads from a file and that can change while it runs (LDS).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::document;
use crate::envoy::Envoy;
use crate::error::{PushError, StartError};
use crate::sidecar;

/// The timeout for Envoy to apply a new file.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The file with the listeners.
#[derive(Debug)]
pub(crate) struct Listeners {
    file: PathBuf,
    listeners: Value,
    version: u64,
}

impl Listeners {
    /// Moves the listeners from `bootstrap` to a file in `folder`, and configures LDS to read that file.
    pub(crate) fn move_out(bootstrap: &mut Value, folder: &Path) -> Result<Self, StartError> {
        let listeners = document::at_mut(bootstrap, "static_resources.listeners")?.take();
        if let Some(resources) = bootstrap["static_resources"].as_object_mut() {
            resources.shift_remove("listeners");
        }
        let file = folder.join("listeners.json");
        bootstrap["dynamic_resources"]["lds_config"] =
            json!({"resource_api_version": "V3", "path_config_source": {"path": file}});
        let listeners = Self { file, listeners, version: 0 };
        listeners.write().map_err(StartError::io("writing the listeners"))?;
        Ok(listeners)
    }

    /// Replaces the filter's configuration in all listeners and waits until every worker has it.
    pub(crate) fn push(&mut self, envoy: &Envoy, concurrency: u32, configuration: &str) -> Result<(), PushError> {
        let before = Progress::of(envoy)?;
        sidecar::set_configuration(&mut self.listeners, configuration)?;
        self.version += 1;
        self.write()?;
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            let now = Progress::of(envoy)?;
            if now.rejected > before.rejected {
                return Err(PushError::Rejected(rejection_details(envoy)?));
            }
            // Envoy does not count an unchanged listener as modified.
            let on_workers = (now.modified - before.modified) * u64::from(concurrency);
            if now.accepted > before.accepted && now.on_workers - before.on_workers >= on_workers {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(PushError::Timeout(TIMEOUT))
    }

    /// Writes a temporary file and renames it: Envoy watches for the rename and never reads an incomplete file.
    fn write(&self) -> io::Result<()> {
        let mut resources = self.listeners.clone();
        for listener in resources.as_array_mut().into_iter().flatten() {
            listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        }
        let response = json!({"version_info": self.version.to_string(), "resources": resources});
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{response:#}"))?;
        fs::rename(next, &self.file)
    }
}

/// Envoy's counters of listener updates.
struct Progress {
    accepted: u64,
    rejected: u64,
    modified: u64,
    on_workers: u64,
}

impl Progress {
    fn of(envoy: &Envoy) -> io::Result<Self> {
        let stat = |name: &str| Ok::<_, io::Error>(envoy.stat(&format!("listener_manager.{name}"))?.unwrap_or(0));
        // The order matters: the counter that Envoy increments last must be read first.
        Ok(Self {
            on_workers: stat("listener_create_success")?,
            accepted: stat("lds.update_success")?,
            rejected: stat("lds.update_rejected")?,
            modified: stat("listener_modified")?,
        })
    }
}

/// Returns Envoy's error details for the listeners that it rejected.
fn rejection_details(envoy: &Envoy) -> io::Result<String> {
    let dump: Value = serde_json::from_str(&envoy.admin("/config_dump?resource=dynamic_listeners")?)?;
    let details: Vec<&str> = dump["configs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|listener| listener["error_state"]["details"].as_str())
        .collect();
    Ok(details.join("\n"))
}
