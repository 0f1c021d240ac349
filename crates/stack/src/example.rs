//! Runs the Envoy of an example, with a fake Entra, an upstream, and a server of the test in place of the example's source.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

use fake_entra::{Directory, Issuer, Server};
use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::document;
use crate::envoy::{self, Envoy, Launch};
use crate::error::StartError;
use crate::folder::Folder;
use crate::process;
use crate::sidecar::{self, OUTBOUND};
use crate::upstream::Upstream;
use crate::workload::{self, AUTHORITY_HOST, CLIENT_ID, ISSUER_URL, TENANT_ID};
use crate::workspace;

/// The examples with an `envoy.yaml` of their own.
pub const NAMES: [&str; 3] = ["github-actions", "vm-keycloak", "vm-vault"];

/// The clusters that every example has besides that of its source.
const COMMON: [&str; 3] = ["entra", "entra_new_connection", "payments_kv"];

/// A running example. It stops when dropped.
pub struct Example {
    // Fields are dropped in this order: Envoy before its upstreams, and the folder last.
    /// Envoy.
    pub envoy: Envoy,
    /// The upstream of the listed host.
    pub upstream: Upstream,
    entra: Server,
    outbound: SocketAddr,
    _folder: Folder,
}

/// Reads `examples/NAME/envoy.yaml`.
///
/// # Errors
/// When the file is not YAML.
pub fn document(name: &str) -> Result<Value, StartError> {
    Ok(document::read(&format!("examples/{name}/envoy.yaml"))?.pop().unwrap_or_default())
}

/// The cluster of an example's source.
pub fn source_cluster(document: &mut Value) -> Option<&mut Value> {
    let clusters = document["static_resources"]["clusters"].as_array_mut()?;
    clusters.iter_mut().find(|cluster| cluster["name"].as_str().is_some_and(|name| !COMMON.contains(&name)))
}

/// Validates the file of an example with Envoy. `edit` replaces the files of its source.
///
/// # Errors
/// When Envoy rejects it.
pub fn validate(name: &str, edit: impl FnOnce(&mut Value)) -> Result<(), StartError> {
    let folder = process::folder()?;
    let mut bootstrap = document(name)?;
    set_module(&mut bootstrap)?;
    edit(&mut bootstrap);
    launch(&envoy::binary(), &bootstrap, folder.path(), &[]).validate()
}

impl Example {
    /// Starts the Envoy of an example with these environment variables, in addition to those of the workload. `edit` connects its source
    /// to a server of the test.
    ///
    /// # Errors
    /// When a part does not start.
    pub fn start(
        name: &str,
        variables: &[(String, String)],
        edit: impl FnOnce(&mut Value),
    ) -> Result<Self, StartError> {
        let mut folder = process::folder()?;
        let directory = Directory::new();
        workload::register(&directory, &Issuer::new(ISSUER_URL)).map_err(StartError::Registration)?;
        let entra = Server::start(directory).map_err(StartError::io("starting the fake Entra"))?;
        let upstream = Upstream::start().map_err(StartError::io("starting the upstream"))?;
        let (entra_ca, upstream_ca) = (folder.path().join("entra-ca.pem"), folder.path().join("upstream-ca.pem"));
        fs::write(&entra_ca, entra.ca_pem()).map_err(StartError::io("writing the fake Entra's CA"))?;
        fs::write(&upstream_ca, upstream.ca_pem()).map_err(StartError::io("writing the upstream's CA"))?;

        let mut bootstrap = document(name)?;
        set_module(&mut bootstrap)?;
        let mut substitutions =
            vec![("admin.address.socket_address.port_value".to_owned(), json!(0)), (sidecar::port(OUTBOUND), json!(0))];
        for (cluster, server, ca) in [
            ("entra", entra.https_addr(), &entra_ca),
            ("entra_new_connection", entra.https_addr(), &entra_ca),
            ("payments_kv", upstream.addr(), &upstream_ca),
        ] {
            substitutions.extend(sidecar::connected(cluster, server, Some(ca)));
        }
        substitutions.into_iter().try_for_each(|(path, value)| document::set(&mut bootstrap, &path, value))?;
        edit(&mut bootstrap);

        let workload =
            [("AZURE_TENANT_ID", TENANT_ID), ("AZURE_CLIENT_ID", CLIENT_ID), ("AZURE_AUTHORITY_HOST", AUTHORITY_HOST)];
        let mut environment = workload.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        environment.extend_from_slice(variables);
        let envoy = Envoy::start(&launch(&envoy::binary(), &bootstrap, folder.path(), &environment))
            .inspect_err(|_| folder.keep())?;
        let listener = envoy.listener(OUTBOUND).map_err(StartError::io("getting the listener's address"))?;
        let missing = || StartError::io("getting the listener's address")(io::ErrorKind::NotFound.into());
        Ok(Self { outbound: listener.ok_or_else(missing)?, envoy, upstream, entra, _folder: folder })
    }

    /// Sends a request through the listener `outbound`.
    ///
    /// # Errors
    /// When there is no response.
    pub fn send(&self, request: &Request) -> io::Result<Response> {
        request.send(self.outbound)
    }

    /// The address of the listener `outbound`.
    pub fn outbound_addr(&self) -> SocketAddr {
        self.outbound
    }

    /// The fake Entra's directory, with its counters and faults.
    pub fn directory(&self) -> Directory {
        self.entra.directory()
    }

    /// Returns the log of Envoy and the filter.
    pub fn log(&self) -> String {
        self.envoy.log()
    }
}

/// Sets the file of the module.
fn set_module(bootstrap: &mut Value) -> Result<(), StartError> {
    Ok(document::set(bootstrap, &sidecar::module_path(OUTBOUND), json!(workspace::module()?))?)
}

fn launch<'a>(
    binary: &'a Path,
    bootstrap: &'a Value,
    folder: &'a Path,
    environment: &'a [(String, String)],
) -> Launch<'a> {
    Launch { binary, bootstrap, folder, concurrency: 2, environment, log_level: "info", listeners: &[OUTBOUND] }
}
