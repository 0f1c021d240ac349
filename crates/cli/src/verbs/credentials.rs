//! `credentials`: the federated credentials that a configuration needs.

use clap::Args;
use operator::AzureDevOps;
use operator::credentials::{self, Format, Workloads};
use operator::token;
use serde_json::json;

use crate::choice::one_of;
use crate::output::{Failure, Output, Verdict};
use crate::{clock, input};

/// The arguments of `credentials`.
#[derive(Debug, Args)]
pub(crate) struct Credentials {
    /// The configuration, or the manifest that contains it; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// The form of the result
    #[arg(long, default_value = "az", value_parser = one_of::<Format>())]
    format: Format,
    /// The issuer of the federated tokens, such as the cluster's OIDC issuer URL; not necessary if their source has only one
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The subject of a workload's token; may be repeated
    #[arg(long = "subject", value_name = "SUBJECT")]
    subjects: Vec<String>,
    /// A Kubernetes service account, NAMESPACE/NAME; may be repeated
    #[arg(long = "service-account", value_name = "NAMESPACE/NAME", value_parser = service_account)]
    service_accounts: Vec<String>,
    /// Only the credentials of the identity with this name
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// The audience, if it is not that of the authority's cloud
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// Take issuer, subject and audience from the token in this file
    #[arg(long, value_name = "FILE")]
    token: Option<String>,
    /// The id of the organization in Azure DevOps, for an identity of Azure Pipelines; with it issuer and subject are computed
    #[arg(long, value_name = "GUID", value_parser = guid)]
    organization_id: Option<String>,
    /// The name of an older service connection, whose tokens Azure DevOps issues itself
    #[arg(long, value_name = "ORGANIZATION/PROJECT/NAME", value_parser = service_connection, requires = "organization_id")]
    service_connection: Option<String>,
    /// An environment variable of the proxy's container, such as AZURE_CLIENT_ID=…
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = super::check::variable)]
    variables: Vec<(String, String)>,
}

fn service_account(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(format!("system:serviceaccount:{namespace}:{name}"))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

fn guid(text: &str) -> Result<String, String> {
    if operator::is_guid(text) { Ok(text.to_owned()) } else { Err("write a GUID".to_owned()) }
}

fn service_connection(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [_, _, _] if parts.iter().all(|part| !part.is_empty()) => Ok(text.to_owned()),
        _ => Err("write ORGANIZATION/PROJECT/NAME".to_owned()),
    }
}

impl Credentials {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let sources = input::sources(&self.files)?;
        let workloads = self.workloads()?;
        let list = credentials::credentials(&sources, &workloads);
        let list = list.map_err(|reason| Failure::input(reason.to_string()))?;
        output.print(&credentials::render(&list, self.format), &json!(list))?;
        Ok(Verdict::Good)
    }

    fn workloads(&self) -> Result<Workloads, Failure> {
        let mut subjects = [self.subjects.clone(), self.service_accounts.clone()].concat();
        let mut issuer = self.issuer.clone();
        let mut audience = self.audience.clone();
        if let Some(file) = &self.token {
            let source = input::source(file)?;
            let inspected = token::inspect(source.text(), clock::now());
            let inspected = inspected.map_err(|reason| Failure::input(format!("{file} {reason}")))?;
            let claims = inspected.credential.ok_or_else(|| {
                Failure::input(format!("{file} is not a federated token with issuer, subject and audience"))
            })?;
            issuer = issuer.or(Some(claims.issuer));
            audience = audience.or(Some(claims.audience));
            if subjects.is_empty() {
                subjects.push(claims.subject);
            }
        }
        let (identity, variables) = (self.identity.clone(), self.variables.clone());
        let devops = AzureDevOps {
            organization_id: self.organization_id.clone(),
            service_connection: self.service_connection.clone(),
        };
        Ok(Workloads { issuer, subjects, audience, identity, devops, variables })
    }
}
