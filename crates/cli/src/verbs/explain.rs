//! `explain`: how the filter would handle a request.

use std::net::SocketAddr;

use clap::{ArgGroup, Args};
use operator::explain::{self, Question};
use serde_json::json;

use crate::input;
use crate::output::{Failure, Output, Verdict};

/// The arguments of `explain`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("request").required(true).args(["url", "managed_identity"]))]
pub(crate) struct Explain {
    /// The configuration, or the manifest that contains it; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// The URL as the application calls it, such as `http://payments-kv.vault.azure.net/secrets`
    #[arg(long)]
    url: Option<String>,
    /// A token request to IMDS with these parameters, such as `resource=https://vault.azure.net&client_id=…`
    #[arg(long, value_name = "PARAMETERS")]
    managed_identity: Option<String>,
    /// The method
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header, NAME: VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The cluster to which Envoy routes the request; without it, the route is assumed to be right
    #[arg(long)]
    cluster: Option<String>,
    /// The URI in the caller's certificate, such as `spiffe://cluster.local/ns/payments/sa/api`
    #[arg(long, value_name = "URI")]
    caller: Option<String>,
    /// The connection to the service, if the filter is an upstream HTTP filter
    #[arg(long, value_enum)]
    connection: Option<Connection>,
    /// The address and port that the client connected to, such as 127.0.0.1:15002
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: Option<SocketAddr>,
    /// The proxy is a gateway of Istio
    #[arg(long)]
    gateway: bool,
    /// An environment variable of the proxy's container
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = super::check::variable)]
    variables: Vec<(String, String)>,
}

/// A connection to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Connection {
    /// With TLS
    Tls,
    /// In plaintext
    Plaintext,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Explain {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let sources = input::sources(&self.files)?;
        let explained = explain::explain(&sources, &self.variables, &self.question());
        let explained = explained.map_err(Failure::input)?;
        output.print(&explained.text(), &json!(explained))?;
        Ok(Verdict::of(explained.is_good()))
    }

    fn question(&self) -> Question {
        let base = match &self.managed_identity {
            Some(parameters) => Question::managed_identity(parameters),
            None => Question { url: self.url.clone().unwrap_or_default(), ..Question::default() },
        };
        Question {
            method: self.method.clone(),
            headers: [self.headers.clone(), base.headers].concat(),
            cluster: self.cluster.clone(),
            caller: self.caller.clone(),
            connection_tls: self.connection.map(|connection| connection == Connection::Tls),
            address: self.address.or(base.address),
            on_gateway: self.gateway,
            url: base.url,
        }
    }
}
