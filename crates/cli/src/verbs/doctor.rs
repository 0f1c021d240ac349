//! `doctor`: looks at a machine or pod, and says of each thing that it is in order or what to do.

use clap::Args;
use operator::doctor::{self, Line};
use operator::status::Status;
use serde_json::json;

use crate::output::{Failure, Output, Verdict};
use crate::{clock, input, network};

/// The arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Look at neither the variables nor the token file, because they are elsewhere (after a port-forward)
    #[arg(long)]
    remote: bool,
    /// The token file, if AZURE_FEDERATED_TOKEN_FILE is not set
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/azure/wi/token/azure-identity-token")]
    token_file: String,
    /// The filter's status page, which is fetched
    #[arg(long, value_name = "URL", value_parser = network::url)]
    status: Option<String>,
    /// Envoy's administration interface, such as `http://127.0.0.1:15000`; /clusters and /stats are fetched
    #[arg(long, value_name = "URL", value_parser = network::url)]
    admin: Option<String>,
    /// The clusters for Entra
    #[arg(long = "cluster", value_name = "NAME", default_values = ["entra", "entra_new_connection"])]
    clusters: Vec<String>,
    /// Open a TLS connection to the authority, and verify its certificate with the CAs of Mozilla
    #[arg(long)]
    connect: bool,
    /// The authority, if AZURE_AUTHORITY_HOST is not set
    #[arg(long, value_name = "URL", default_value = "https://login.microsoftonline.com", value_parser = network::url)]
    authority: String,
}

impl Doctor {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let variable = |name: &str| std::env::var(name).ok();
        let mut lines = Vec::new();
        if !self.remote {
            lines.extend(doctor::variables(&variable));
            let path = variable("AZURE_FEDERATED_TOKEN_FILE").unwrap_or_else(|| self.token_file.clone());
            let content = input::bytes(&path).map_err(|failure| failure.without(&path));
            lines.push(doctor::token_file(&path, content, clock::now()));
        }
        lines.extend(self.status.as_deref().map(status));
        if let Some(admin) = &self.admin {
            lines.extend(self.envoy(admin.trim_end_matches('/')));
        }
        if self.connect {
            let authority = variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| self.authority.clone());
            lines.push(connect(authority.trim_end_matches('/')));
        }
        if lines.is_empty() {
            return Err(Failure::input(
                "there is nothing to look at: with --remote, write --status, --admin or --connect",
            ));
        }
        let text: Vec<String> = lines.iter().map(Line::text).collect();
        output.print(&text.join("\n"), &json!(lines))?;
        Ok(Verdict::of(lines.iter().all(|line| line.good)))
    }

    fn envoy(&self, admin: &str) -> Vec<Line> {
        let fetched = |path: &str| match network::get(&format!("{admin}{path}")) {
            Ok(network::Response { status: 200, body }) => Ok(body),
            Ok(network::Response { status, .. }) => Err(format!("{admin}{path} answered {status}")),
            Err(error) => Err(format!("{admin}{path} cannot be reached: {error}")),
        };
        match (fetched("/clusters"), fetched("/stats?filter=^cluster%5C.")) {
            (Ok(clusters), Ok(stats)) => doctor::clusters(&self.clusters, &clusters, &stats),
            (Err(error), _) | (_, Err(error)) => {
                let remedy = "Check the address of Envoy's administration interface (15000), and the port-forward.";
                vec![Line::bad("Envoy", error, remedy)]
            }
        }
    }
}

fn status(url: &str) -> Line {
    let page = match network::get(url) {
        Ok(network::Response { status: 200, body }) => Status::read(&body),
        Ok(network::Response { status, .. }) => Err(format!("{url} answered {status}")),
        Err(error) => Err(format!("{url} cannot be reached: {error}")),
    };
    match page {
        Ok(page) if page.is_good() => Line::good("filter", page.summary()),
        Ok(page) => {
            Line::bad("filter", page.summary(), "Run entra-exchange status with this URL, and follow the remedies.")
        }
        Err(error) => {
            Line::bad("filter", error, "Set status in the filter's configuration, and call the page within the pod.")
        }
    }
}

/// Any answer shows that the connection and the certificate are right.
fn connect(authority: &str) -> Line {
    let url = format!("{authority}/common/v2.0/.well-known/openid-configuration");
    match network::get(&url) {
        Ok(network::Response { status, .. }) => Line::good("connection", format!("{authority} answered {status}")),
        Err(error) => {
            let remedy = "Check DNS, firewall and proxies between this machine and the authority. An error of the certificate means that \
                          something intercepts the connection.";
            Line::bad("connection", format!("{authority} cannot be reached: {error}"), remedy)
        }
    }
}
