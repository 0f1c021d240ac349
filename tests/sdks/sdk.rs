//! The SDKs: how each is started and how their behaviour differs.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::Source;

/// How an SDK's requests for IMDS reach the filter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImdsAccess {
    /// The environment variable `AZURE_POD_IDENTITY_AUTHORITY_HOST` names the filter.
    Variable,
    /// The SDK calls 169.254.169.254. Its requests are redirected to the filter: by iptables in a pod, by the driver's transport here.
    Redirect,
}

/// An SDK.
pub(crate) struct Sdk {
    /// The beginning of the names of its tests.
    pub(crate) id: &'static str,
    /// The name in the table; the SDK itself reports its version.
    pub(crate) name: &'static str,
    /// The language in the table.
    pub(crate) language: &'static str,
    /// Whether `make test` runs it, because it needs only what the README requires.
    pub(crate) always: bool,
    /// How its managed-identity credential reaches IMDS.
    pub(crate) imds: ImdsAccess,
    /// How the probe of its `DefaultAzureCredential` reaches IMDS; `None` when it has no such credential.
    pub(crate) chain: Option<ImdsAccess>,
    /// The endpoints that it supports.
    pub(crate) endpoints: &'static [Endpoint],
    /// The command that starts its driver; `None` when it is not installed.
    pub(crate) driver: fn() -> Option<Command>,
}

/// An endpoint that an SDK supports, and the SDK's behaviour there.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) source: Source,
    /// The selectors that the SDK supports.
    pub(crate) selectors: &'static [&'static str],
    /// Whether the SDK caches tokens.
    pub(crate) caches: bool,
    /// Whether the SDK retries after a 503.
    pub(crate) retries: bool,
    /// Whether the SDK's error message contains the endpoint's error.
    pub(crate) reports_errors: bool,
}

impl Sdk {
    /// Returns the SDK's behaviour at this endpoint; `None` when it does not support it.
    pub(crate) fn endpoint(&self, source: Source) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.source == source)
    }
}

/// The parameters that select a user-assigned identity.
const SELECTORS: &[&str] = &["client_id", "object_id", "resource_id"];

/// The behaviour of current SDKs at IMDS and at App Service.
const IMDS: Endpoint =
    Endpoint { source: Source::Imds, selectors: SELECTORS, caches: true, retries: true, reports_errors: true };
const APP_SERVICE: Endpoint = Endpoint { source: Source::AppService, ..IMDS };
/// App Service 2017-09-01 does not support object ids.
const APP_SERVICE_FIRST: Endpoint = Endpoint { source: Source::AppServiceFirst, selectors: &["client_id"], ..IMDS };

/// All SDKs in the order of the table.
pub(crate) const ALL: [Sdk; 8] = [
    Sdk {
        id: "azure_identity_for_python",
        name: "azure-identity",
        language: "Python",
        always: true,
        imds: ImdsAccess::Variable,
        chain: Some(ImdsAccess::Redirect),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || Some(python("azure_identity_driver.py")),
    },
    Sdk {
        id: "msal_for_python",
        name: "msal",
        language: "Python",
        always: true,
        imds: ImdsAccess::Variable,
        chain: None,
        endpoints: &[Endpoint { retries: false, ..IMDS }, Endpoint { retries: false, ..APP_SERVICE }],
        driver: || Some(python("msal_driver.py")),
    },
    Sdk {
        // Old Ansible collections and Azure CLIs use it.
        id: "msrestazure_for_python",
        name: "msrestazure",
        language: "Python",
        always: true,
        imds: ImdsAccess::Redirect,
        chain: None,
        endpoints: &[
            Endpoint { reports_errors: false, ..IMDS },
            Endpoint { caches: false, retries: false, ..APP_SERVICE_FIRST },
        ],
        driver: || Some(python("msrestazure_driver.py")),
    },
    Sdk {
        id: "azure_identity_for_rust",
        name: "azure_identity",
        language: "Rust",
        always: true,
        imds: ImdsAccess::Redirect,
        chain: None,
        endpoints: &[
            Endpoint { reports_errors: false, ..IMDS },
            Endpoint { reports_errors: false, selectors: &["client_id", "object_id"], ..APP_SERVICE },
        ],
        driver: crate::rust::driver,
    },
    Sdk {
        id: "azure_identity_for_node",
        name: "@azure/identity",
        language: "Node.js",
        always: false,
        imds: ImdsAccess::Variable,
        chain: Some(ImdsAccess::Redirect),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || {
            let modules = installed("node")?.join("node_modules");
            let mut command = Command::new("node");
            command.arg(source("node/driver.cjs")).env("NODE_PATH", modules);
            Some(command)
        },
    },
    Sdk {
        id: "azidentity_for_go",
        name: "azidentity",
        language: "Go",
        always: false,
        imds: ImdsAccess::Redirect,
        chain: Some(ImdsAccess::Redirect),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || Some(Command::new(installed("go")?.join("azidentity"))),
    },
    Sdk {
        // Part of go-autorest, which old Terraform providers use. It sends resource ids to every endpoint.
        id: "adal_for_go",
        name: "adal",
        language: "Go",
        always: false,
        imds: ImdsAccess::Redirect,
        chain: None,
        endpoints: &[
            Endpoint { selectors: &["client_id", "resource_id"], ..IMDS },
            Endpoint { selectors: &["client_id", "resource_id"], ..APP_SERVICE },
            Endpoint { selectors: &["client_id", "resource_id"], ..APP_SERVICE_FIRST },
        ],
        driver: || Some(Command::new(installed("go")?.join("adal"))),
    },
    Sdk {
        id: "azure_identity_for_java",
        name: "azure-identity",
        language: "Java",
        always: false,
        imds: ImdsAccess::Variable,
        // Its probe also uses the host of the environment variable.
        chain: Some(ImdsAccess::Variable),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || {
            let folder = installed("java")?;
            let classes = format!("{0}/lib/*:{0}/classes", folder.display());
            let mut command = Command::new("java");
            // Optimized for a fast start.
            command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &classes, "Driver"]);
            Some(command)
        },
    },
];

fn python(driver: &str) -> Command {
    let mut command = Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
    command.arg(source("python").join(driver)).env("PYTHONPATH", stack::root().join(".tools/python"));
    command
}

/// Returns the folder into which `scripts/fetch-sdks` installed the SDK; `None` when it is not installed.
fn installed(language: &str) -> Option<PathBuf> {
    let folder = stack::root().join(".tools").join(language);
    folder.join("installed").is_file().then_some(folder)
}

fn source(path: &str) -> PathBuf {
    stack::root().join("tests/sdk").join(path)
}
