//! The SDKs: how each is started, and in what they differ.

use std::path::PathBuf;
use std::process::Command;

use crate::world::Source;

/// How an SDK comes to the filter when it wants IMDS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `AZURE_POD_IDENTITY_AUTHORITY_HOST` tells it another host.
    Variable,
    /// It asks 169.254.169.254, and is led to the filter: by iptables in a pod, by its driver's transport here.
    Redirect,
}

/// One SDK.
pub(crate) struct Sdk {
    /// What the names of its tests begin with.
    pub(crate) id: &'static str,
    /// What the table calls it; the version comes from the SDK itself.
    pub(crate) name: &'static str,
    /// Its language, for the table.
    pub(crate) language: &'static str,
    /// Whether it needs no more than the README asks for, so that `make test` runs it.
    pub(crate) always: bool,
    /// How its managed-identity credential comes to IMDS.
    pub(crate) way: Way,
    /// How its `DefaultAzureCredential` does, so that it probes; `None` where it has no such thing.
    pub(crate) chain: Option<Way>,
    /// The endpoints that it speaks to.
    pub(crate) endpoints: &'static [Endpoint],
    /// Its driver; `None` when that is not installed.
    pub(crate) driver: fn() -> Option<Command>,
}

/// One endpoint that an SDK speaks to, and how.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) source: Source,
    /// The selectors that it offers there.
    pub(crate) selectors: &'static [&'static str],
    /// Whether it keeps a token instead of asking for it again.
    pub(crate) keeps: bool,
    /// Whether it tries again by itself after a 503.
    pub(crate) retries: bool,
    /// Whether its message has the text of a refusal.
    pub(crate) tells: bool,
}

impl Sdk {
    /// How it speaks to this endpoint; `None` when it cannot.
    pub(crate) fn endpoint(&self, source: Source) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.source == source)
    }
}

/// The ways to name a user-assigned identity.
const SELECTORS: &[&str] = &["client_id", "object_id", "resource_id"];

/// As the SDKs of today speak to IMDS, and to App Service.
const IMDS: Endpoint = Endpoint { source: Source::Imds, selectors: SELECTORS, keeps: true, retries: true, tells: true };
const APP_SERVICE: Endpoint = Endpoint { source: Source::AppService, ..IMDS };
/// App Service's first version knows no object ids.
const APP_SERVICE_FIRST: Endpoint = Endpoint { source: Source::AppServiceFirst, selectors: &["client_id"], ..IMDS };

/// All of them, in the order of the table.
pub(crate) const ALL: [Sdk; 8] = [
    Sdk {
        id: "azure_identity_for_python",
        name: "azure-identity",
        language: "Python",
        always: true,
        way: Way::Variable,
        chain: Some(Way::Redirect),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || Some(python("azure_identity_driver.py")),
    },
    Sdk {
        id: "msal_for_python",
        name: "msal",
        language: "Python",
        always: true,
        way: Way::Variable,
        chain: None,
        endpoints: &[Endpoint { retries: false, ..IMDS }, Endpoint { retries: false, ..APP_SERVICE }],
        driver: || Some(python("msal_driver.py")),
    },
    Sdk {
        // Old Ansible collections and Azure CLIs have it.
        id: "msrestazure_for_python",
        name: "msrestazure",
        language: "Python",
        always: true,
        way: Way::Redirect,
        chain: None,
        endpoints: &[Endpoint { tells: false, ..IMDS }, Endpoint { keeps: false, retries: false, ..APP_SERVICE_FIRST }],
        driver: || Some(python("msrestazure_driver.py")),
    },
    Sdk {
        id: "azure_identity_for_rust",
        name: "azure_identity",
        language: "Rust",
        always: true,
        way: Way::Redirect,
        chain: None,
        endpoints: &[
            Endpoint { tells: false, ..IMDS },
            Endpoint { tells: false, selectors: &["client_id", "object_id"], ..APP_SERVICE },
        ],
        driver: crate::rust::driver,
    },
    Sdk {
        id: "azure_identity_for_node",
        name: "@azure/identity",
        language: "Node.js",
        always: false,
        way: Way::Variable,
        chain: Some(Way::Redirect),
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
        way: Way::Redirect,
        chain: Some(Way::Redirect),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || Some(Command::new(installed("go")?.join("driver"))),
    },
    Sdk {
        // go-autorest's, which old Terraform providers have. It sends resource ids, too, whatever the endpoint.
        id: "adal_for_go",
        name: "adal",
        language: "Go",
        always: false,
        way: Way::Redirect,
        chain: None,
        endpoints: &[
            Endpoint { selectors: &["client_id", "resource_id"], ..IMDS },
            Endpoint { selectors: &["client_id", "resource_id"], ..APP_SERVICE },
            Endpoint { selectors: &["client_id", "resource_id"], ..APP_SERVICE_FIRST },
        ],
        driver: || Some(Command::new(installed("go")?.join("adal-driver"))),
    },
    Sdk {
        id: "azure_identity_for_java",
        name: "azure-identity",
        language: "Java",
        always: false,
        way: Way::Variable,
        // Its probe asks the host of the variable, too.
        chain: Some(Way::Variable),
        endpoints: &[IMDS, APP_SERVICE],
        driver: || {
            let folder = installed("java")?;
            let classes = format!("{0}/lib/*:{0}/classes", folder.display());
            let mut command = Command::new("java");
            // Quick to start rather than quick in the end.
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

/// The folder that `scripts/fetch-sdks` fills, when it has.
fn installed(language: &str) -> Option<PathBuf> {
    let folder = stack::root().join(".tools").join(language);
    folder.join("installed").is_file().then_some(folder)
}

fn source(path: &str) -> PathBuf {
    stack::root().join("tests/sdk").join(path)
}
