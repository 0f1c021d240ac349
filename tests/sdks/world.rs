//! One SDK in front of a filter of its own.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, thread};

use serde_json::{Value, json};
use stack::{CLIENT_ID, IDENTITY_HEADER, Options, Stack, TENANT_ID};

use crate::sdk::{Sdk, Way};

/// The default identity is the stack's own. This is the other one that Entra knows.
pub(crate) const REPORTS: &str = "bbbbbbbb-0000-4000-8000-000000000002";
/// An identity that is on offer, though Entra knows no such application.
pub(crate) const STRANGER: &str = "dddddddd-0000-4000-8000-000000000004";
const REPORTS_OBJECT: &str = "eeeeeeee-0000-4000-8000-000000000005";
const REPORTS_RESOURCE: &str = "/subscriptions/cccccccc-0000-4000-8000-000000000003/resourcegroups/g\
                                /providers/Microsoft.ManagedIdentity/userAssignedIdentities/reports";
/// How long a driver may take. The slowest SDK gives up after a minute and a half.
const PATIENCE: Duration = Duration::from_secs(120);

/// The endpoint that an SDK speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Imds,
    /// App Service's of 2019-08-01.
    AppService,
    /// App Service's of 2017-09-01.
    AppServiceFirst,
}

impl Source {
    pub(crate) const ALL: [Self; 3] = [Self::Imds, Self::AppService, Self::AppServiceFirst];

    /// Another one for each, so that what one source has got is not what the other gets.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Imds => "https://vault.azure.net",
            Self::AppService => "https://storage.azure.com",
            Self::AppServiceFirst => "https://database.windows.net",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imds => "IMDS",
            Self::AppService => "App Service",
            Self::AppServiceFirst => "App Service 2017-09-01",
        })
    }
}

/// What a driver is asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    /// The parameter that names an identity, and its value.
    pub(crate) selector: Option<(&'a str, &'a str)>,
    /// How often, in one process.
    pub(crate) times: u32,
    /// By `DefaultAzureCredential`.
    pub(crate) chain: bool,
}

/// A token as an SDK hands it on.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// When the SDK takes it to end, in Unix seconds.
    end: i64,
    /// How long the app waited for it.
    waited_ms: i64,
}

/// What one got: tokens, or the SDK's error message.
pub(crate) type Got = Result<Vec<Token>, String>;

/// One SDK in front of a filter of its own.
pub(crate) struct World {
    sdk: &'static Sdk,
    stack: Stack,
    version: OnceLock<String>,
}

impl World {
    pub(crate) fn start(sdk: &'static Sdk) -> Self {
        let configuration = json!({
            "identities": [
                {"name": "orders"},
                {
                    "name": "reports", "client_id": REPORTS,
                    "object_id": REPORTS_OBJECT, "resource_id": REPORTS_RESOURCE,
                },
                {"name": "stranger", "client_id": STRANGER},
            ],
            "managed_identity": {
                "identities": ["orders", "reports", "stranger"],
                "default_identity": "orders",
                "imds": {},
                "app_service": {},
            },
        });
        let options = Options { configuration: Some(configuration.to_string()), ..Options::default() };
        let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
        stack.directory().register_credential(stack::credential(REPORTS)).unwrap();
        stack.directory().register_resource(Source::AppServiceFirst.resource());
        Self { sdk, stack, version: OnceLock::new() }
    }

    pub(crate) fn sdk(&self) -> &'static Sdk {
        self.sdk
    }

    /// The SDK's, once it has run.
    pub(crate) fn version(&self) -> &str {
        self.version.get().unwrap()
    }

    pub(crate) fn entra(&self) -> fake_entra::Directory {
        self.stack.directory()
    }

    /// The value that selects the identity `reports` by this parameter.
    pub(crate) fn reports_by(selector: &str) -> &'static str {
        match selector {
            "client_id" => REPORTS,
            "object_id" => REPORTS_OBJECT,
            "resource_id" => REPORTS_RESOURCE,
            other => panic!("{other} selects nothing"),
        }
    }

    /// Runs the SDK in a process of its own.
    pub(crate) fn ask(&self, source: Source, ask: Ask<'_>) -> Got {
        let selector = ask.selector.map(|(parameter, value)| json!({parameter: value}));
        let request = json!({
            "source": source.to_string(), "resource": source.resource(),
            "selector": selector, "times": ask.times.max(1), "chain": ask.chain,
        });
        let driver = (self.sdk.driver)().unwrap();
        let mut command = Command::new(driver.get_program());
        command.args(driver.get_args()).arg(request.to_string());
        // Only what an app in a pod has; above all, no variable of this machine's that makes an SDK ask somewhere else.
        command.env_clear();
        let kept = ["PATH", "HOME", "LANG", "TMPDIR"];
        command.envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(driver.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // Of the chain, what is not for developers' machines.
        command.env("AZURE_TOKEN_CREDENTIALS", "prod").env("PYTHONDONTWRITEBYTECODE", "1");
        let endpoint = self.stack.imds_url();
        match (source, if ask.chain { self.sdk.chain } else { Some(self.sdk.way) }) {
            (Source::Imds, Some(Way::Variable)) => {
                command.env("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint);
            }
            (Source::Imds, _) => {
                command.env("IMDS_URL", endpoint);
            }
            (Source::AppService, _) => {
                command.env("IDENTITY_ENDPOINT", self.stack.app_service_url()).env("IDENTITY_HEADER", IDENTITY_HEADER);
            }
            (Source::AppServiceFirst, _) => {
                command.env("MSI_ENDPOINT", self.stack.app_service_url()).env("MSI_SECRET", IDENTITY_HEADER);
                // By this one msrestazure knows App Service.
                command.env("APPSETTING_WEBSITE_SITE_NAME", "orders");
            }
        }
        let output = finished(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let answer: Value = match out.lines().last().map(serde_json::from_str) {
            Some(Ok(answer)) if output.status.success() => answer,
            _ => panic!("{} said no more than\n{out}{err}", self.sdk.id),
        };
        // Told, never judged: it is another one on every machine.
        println!("{} {source} {}: {} ms", self.sdk.id, request["selector"], answer["ms"]);
        self.version.get_or_init(|| answer["version"].as_str().unwrap().to_owned());
        match answer["error"]["message"].as_str() {
            Some(message) => {
                assert!(!message.contains("eyJ"), "a token is in the message");
                Err(message.to_owned())
            }
            None => {
                let tokens = answer["tokens"].as_array().unwrap().iter().enumerate().map(|(place, token)| Token {
                    text: token.as_str().unwrap().to_owned(),
                    end: answer["expires_on"][place].as_i64().unwrap(),
                    waited_ms: answer["ms"][place].as_i64().unwrap(),
                });
                Ok(tokens.collect())
            }
        }
    }

    /// The claims of a token, after a look at its signature and at when the SDK takes it to end.
    pub(crate) fn claims(&self, token: &Token) -> Value {
        assert!(self.entra().issued(&token.text, SystemTime::now()), "no token of Entra's that is valid");
        let claims = fake_entra::claims(&token.text).unwrap();
        let wrong = (token.end - claims["exp"].as_i64().unwrap()).abs();
        // Some count from when they began to ask, some from when they had the answer, and all in whole seconds.
        assert!(wrong <= 2 + token.waited_ms / 1000, "the SDK is {wrong} s wrong about the token's end");
        assert_eq!(claims["tid"], TENANT_ID);
        claims
    }

    /// How many requests the filter's endpoint has had, in all and with a status of this class.
    pub(crate) fn requests(&self) -> (u64, u64) {
        let stat = |name: &str| {
            let name = format!("http.{}.downstream_rq_{name}", stack::sidecar::MANAGED_IDENTITY);
            self.stack.envoy.stat(&name).unwrap().unwrap_or_default()
        };
        (stat("total"), stat("4xx"))
    }

    /// The client id of the default identity.
    pub(crate) fn default_client() -> &'static str {
        CLIENT_ID
    }
}

/// Runs a command to its end, which comes soon or at all events.
fn finished(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let out = reading(child.stdout.take().unwrap());
    let err = reading(child.stderr.take().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            None => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
        }
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn reading(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}
