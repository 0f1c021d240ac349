//! What to do, in the order in which it is safe: nothing that runs changes before the switch, and nothing is removed before it works.

use std::fmt;

use serde::Serialize;

use super::{Options, Route, Way, Workload};

/// A part of the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// What the files lack.
    Complete,
    /// Nothing that runs changes.
    Prepare,
    /// One workload after the other gets its tokens by the filter.
    Switch,
    /// What nobody uses any more is removed.
    Clean,
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Complete => "First, what is missing",
            Self::Prepare => "Prepare: nothing that runs changes",
            Self::Switch => "Switch: one workload after the other",
            Self::Clean => "Clean up: after all workloads work",
        })
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When.
    pub phase: Phase,
    /// The workload that it is for; `None` for all.
    pub workload: Option<String>,
    /// What to do.
    pub text: String,
}

/// The steps for the workloads, in order.
pub(super) fn steps(workloads: &[Workload], options: &Options) -> Vec<Step> {
    let mut steps = Vec::new();
    for workload in workloads.iter().filter(|workload| workload.must_change()) {
        let mut add = |phase: Phase, text: String| steps.push(Step { phase, workload: Some(workload.title()), text });
        if !workload.missing.is_empty() {
            workload.missing.iter().for_each(|missing| add(Phase::Complete, missing.clone()));
            continue;
        }
        prepare(workload, options, &mut add);
        switch(workload, options, &mut add);
        clean(workload, &mut add);
    }
    let uses = |way: Way| workloads.iter().any(|workload| workload.ways.contains(&way));
    if uses(Way::PodIdentity) {
        let text = "Remove AzureIdentityBinding and AzureIdentity, then the DaemonSet nmi and the Deployment mic, and the assignment of the \
                    identities to the nodes.";
        steps.push(Step { phase: Phase::Clean, workload: None, text: text.to_owned() });
    }
    steps.sort_by_key(|step| step.phase);
    steps
}

/// The folder of a workload below the one that `--write` names.
pub(super) fn folder(workload: &Workload) -> String {
    format!("{}-{}", workload.namespace, workload.name)
}

/// The folder of a workload, as a step names it.
fn named(workload: &Workload, options: &Options) -> String {
    let folder = folder(workload);
    match &options.directory {
        Some(directory) => format!("{}/{folder}", directory.trim_end_matches('/')),
        None => folder,
    }
}

fn prepare(workload: &Workload, options: &Options, add: &mut dyn FnMut(Phase, String)) {
    let folder = named(workload, options);
    if options.directory.is_none() {
        add(
            Phase::Prepare,
            format!(
                "Write the files that the steps name, into {folder} and so on: run detect again with --write DIRECTORY"
            ),
        );
    }
    add(
        Phase::Prepare,
        match options.issuer {
            Some(_) => format!(
                "Create the federated credentials for {}: sh {folder}/federated-credentials.sh",
                workload.subject()
            ),
            None => format!(
                "Create the federated credentials for {}: entra-exchange credentials {folder}/configuration.json --issuer ISSUER \
                 --service-account {}/{}",
                workload.subject(),
                workload.namespace,
                workload.service_account
            ),
        },
    );
    if workload.route == Route::Istio {
        add(
            Phase::Prepare,
            format!(
                "Make the objects of the mesh: entra-exchange render {folder}/configuration.json --for envoyfilter --namespace {} \
                 --directory {folder}/mesh",
                workload.namespace
            ),
        );
        add(
            Phase::Prepare,
            format!("Apply them: kubectl apply -k {folder}/mesh, and kubectl apply -f {folder}/objects.yaml"),
        );
    } else {
        add(Phase::Prepare, format!("Apply service account and configuration: kubectl apply -f {folder}/objects.yaml"));
    }
    if workload.route == Route::Variables {
        add(
            Phase::Prepare,
            format!(
                "Create the secret between application and sidecar: kubectl -n {} create secret generic {}-entra-exchange \
                 --from-literal=identity-header=\"$(openssl rand -hex 16)\"",
                workload.namespace, workload.name
            ),
        );
    }
    if workload.identities.len() > 1 {
        let text = "If the application selects no identity, set managed_identity.default_identity: the first one that matched was used before.";
        add(Phase::Prepare, text.to_owned());
    }
    if workload.ways.contains(&Way::PodIdentity) {
        let text = "Test it in a copy of the workload, with \"action\": \"report\" in configuration.json: the log shows each exchange, and the \
                    application still gets its tokens as before (docs/migrate.md, step 4).";
        add(Phase::Prepare, text.to_owned());
    }
}

fn switch(workload: &Workload, options: &Options, add: &mut dyn FnMut(Phase, String)) {
    let Workload { namespace, name, kind, .. } = workload;
    let object = format!("{} {name}", kind.to_lowercase());
    let folder = named(workload, options);
    let is_patchable = matches!(kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet" | "CronJob");
    if !is_patchable {
        let text = format!(
            "Merge {folder}/patch.yaml into the manifest, and create the {kind} again: its pods cannot be changed in place."
        );
        add(Phase::Switch, text);
        return;
    }
    add(
        Phase::Switch,
        format!(
            "Change the workload, which restarts it: kubectl -n {namespace} patch {object} --patch-file {folder}/patch.yaml"
        ),
    );
    add(
        Phase::Switch,
        "Check the log of the proxy's container: event=exchange outcome=issued for each identity. Do not continue with the next workload \
         before."
            .to_owned(),
    );
    add(
        Phase::Switch,
        format!("To roll back: kubectl -n {namespace} rollout undo {object}. Nothing outside of the pod has changed."),
    );
}

fn clean(workload: &Workload, add: &mut dyn FnMut(Phase, String)) {
    if workload.ways.contains(&Way::ClientSecret) {
        let clients: Vec<&str> =
            workload.identities.iter().filter_map(|identity| identity.client_id.as_deref()).collect();
        add(
            Phase::Clean,
            format!(
                "Delete the Secret, and the client secret at Entra: az ad app credential list --id {0}, then az ad app credential delete \
                 --id {0} --key-id KEY",
                clients.first().unwrap_or(&"CLIENT")
            ),
        );
    }
    if workload.ways.contains(&Way::ProxySidecar) {
        add(
            Phase::Clean,
            "Remove the annotation azure.workload.identity/inject-proxy-sidecar from the manifest's source.".to_owned(),
        );
    }
    add(Phase::Clean, "List the resources that the application requests in resources of the identity (entra-exchange audit --log shows them).".to_owned());
}
