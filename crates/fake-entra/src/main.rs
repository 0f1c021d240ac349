//! The fake-entra program; `--help` lists its options.

use std::error::Error;
use std::net::SocketAddr;

use fake_entra::{Credential, Directory, Server};

const HELP: &str = "\
fake-entra: a strict fake of Microsoft Entra's token endpoint. It runs until it is killed.

  --https ADDRESS     the address of the token endpoint, TLS  [127.0.0.1:8443]
  --admin ADDRESS     the address of the admin API, plaintext [127.0.0.1:8444]
  --tenant ID         a tenant without applications; repeatable
  --issuer URL=FILE   an OIDC issuer and the file with its JWKS; repeatable
  --credential TENANT,CLIENT,ISSUER,SUBJECT,AUDIENCE
                      a federated credential; repeatable
  --resource NAME     a resource: https://… for v1 tokens, api://… for v2 tokens; repeatable
  --ca-out FILE       the file to write the CA certificate to, as PEM
  --help              print this text
";

struct Options {
    https: SocketAddr,
    admin: SocketAddr,
    ca_out: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Directory::new();
    let Some(options) = read_options(&directory, std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let server = Server::start_on(directory, options.https, options.admin)?;
    if let Some(file) = &options.ca_out {
        std::fs::write(file, server.ca_pem()).map_err(|error| format!("--ca-out {file}: {error}"))?;
    }
    println!("https://{}", server.https_addr());
    println!("admin http://{}", server.admin_addr());
    loop {
        std::thread::park();
    }
}

/// Parses the options and registers tenants, issuers, credentials and resources in the directory; `None` when `--help` is given.
fn read_options(
    directory: &Directory,
    mut arguments: impl Iterator<Item = String>,
) -> Result<Option<Options>, Box<dyn Error>> {
    let mut options =
        Options { https: ([127, 0, 0, 1], 8443).into(), admin: ([127, 0, 0, 1], 8444).into(), ca_out: None };
    while let Some(flag) = arguments.next() {
        if flag == "--help" {
            return Ok(None);
        }
        if !HELP.contains(&format!("  {flag} ")) || !flag.starts_with("--") {
            return Err(format!("unknown option {flag}; --help lists the options").into());
        }
        let value = arguments.next().ok_or_else(|| format!("{flag} requires a value"))?;
        let wrong = |error: &dyn std::fmt::Display| format!("{flag} {value}: {error}");
        match flag.as_str() {
            "--https" => options.https = value.parse().map_err(|error| wrong(&error))?,
            "--admin" => options.admin = value.parse().map_err(|error| wrong(&error))?,
            "--tenant" => directory.register_tenant(&value),
            "--resource" => directory.register_resource(&value),
            "--ca-out" => options.ca_out = Some(value),
            "--issuer" => {
                let (url, file) = value.rsplit_once('=').ok_or_else(|| wrong(&"expected URL=FILE"))?;
                let jwks = std::fs::read(file).map_err(|error| wrong(&error))?;
                directory.trust_issuer(url, serde_json::from_slice(&jwks).map_err(|error| wrong(&error))?);
            }
            _ => {
                let fields: Vec<&str> = value.split(',').collect();
                let [tenant_id, client_id, issuer, subject, audience] = fields.as_slice() else {
                    return Err(wrong(&"expected TENANT,CLIENT,ISSUER,SUBJECT,AUDIENCE").into());
                };
                let credential = Credential {
                    tenant_id: (*tenant_id).to_owned(),
                    client_id: (*client_id).to_owned(),
                    issuer: (*issuer).to_owned(),
                    subject: (*subject).to_owned(),
                    audience: (*audience).to_owned(),
                };
                directory.register_credential(credential).map_err(|error| wrong(&error))?;
            }
        }
    }
    Ok(Some(options))
}
