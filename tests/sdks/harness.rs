//! Runs an SDK against its own stack.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, thread};

use serde_json::{Value, json};
use stack::{CLIENT_ID, IDENTITY_HEADER, Options, Stack, TENANT_ID};

use crate::sdk::{ImdsAccess, Sdk};

/// The client id of the second identity that is registered in Entra. The default identity is the stack's.
pub(crate) const REPORTS: &str = "bbbbbbbb-0000-4000-8000-000000000002";
/// The client id of an identity that is configured but not registered in Entra.
pub(crate) const UNKNOWN_CLIENT: &str = "dddddddd-0000-4000-8000-000000000004";
const REPORTS_OBJECT: &str = "eeeeeeee-0000-4000-8000-000000000005";
const REPORTS_RESOURCE: &str = "/subscriptions/cccccccc-0000-4000-8000-000000000003/resourcegroups/g\
                                /providers/Microsoft.ManagedIdentity/userAssignedIdentities/reports";
/// The timeout of a driver. The slowest SDK gives up after a minute and a half.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A managed-identity endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Imds,
    /// App Service's protocol of 2019-08-01.
    AppService,
    /// App Service's protocol of 2017-09-01.
    AppServiceFirst,
}

impl Source {
    pub(crate) const ALL: [Self; 3] = [Self::Imds, Self::AppService, Self::AppServiceFirst];

    /// The resource to request. It differs by source, so that the sources do not share a token.
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

/// A request to a driver.
#[derive(Clone, Copy, Default)]
pub(crate) struct TokenRequest<'a> {
    /// The parameter that selects an identity, and its value.
    pub(crate) selector: Option<(&'a str, &'a str)>,
    /// The number of token requests in one process.
    pub(crate) times: u32,
    /// Whether to use `DefaultAzureCredential`.
    pub(crate) chain: bool,
}

/// A token as an SDK returns it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// The SDK's expiry time, in Unix seconds.
    expires_on: i64,
    /// The time that the app waited for the token.
    waited_ms: i64,
}

/// Tokens, or the SDK's error message.
pub(crate) type TokenResult = Result<Vec<Token>, String>;

/// An SDK and its own stack.
pub(crate) struct Harness {
    sdk: &'static Sdk,
    stack: Stack,
    version: OnceLock<String>,
}

impl Harness {
    pub(crate) fn start(sdk: &'static Sdk) -> Self {
        let configuration = json!({
            "identities": [
                {"name": "orders"},
                {
                    "name": "reports", "client_id": REPORTS,
                    "object_id": REPORTS_OBJECT, "resource_id": REPORTS_RESOURCE,
                },
                {"name": "unknown", "client_id": UNKNOWN_CLIENT},
            ],
            "managed_identity": {
                "identities": ["orders", "reports", "unknown"],
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

    /// The SDK's version. Requires that the SDK has run.
    pub(crate) fn version(&self) -> &str {
        self.version.get().unwrap()
    }

    pub(crate) fn entra(&self) -> fake_entra::Directory {
        self.stack.directory()
    }

    /// Returns the value of this parameter that selects the identity `reports`.
    pub(crate) fn reports_by(selector: &str) -> &'static str {
        match selector {
            "client_id" => REPORTS,
            "object_id" => REPORTS_OBJECT,
            "resource_id" => REPORTS_RESOURCE,
            other => panic!("unknown selector {other}"),
        }
    }

    /// Runs the SDK in a new process and returns its tokens.
    pub(crate) fn get_tokens(&self, source: Source, token_request: TokenRequest<'_>) -> TokenResult {
        let selector = token_request.selector.map(|(parameter, value)| json!({parameter: value}));
        let request = json!({
            "source": source.to_string(), "resource": source.resource(),
            "selector": selector, "times": token_request.times.max(1), "chain": token_request.chain,
        });
        let driver = (self.sdk.driver)().unwrap();
        let mut command = Command::new(driver.get_program());
        command.args(driver.get_args()).arg(request.to_string());
        // Only the variables of an app in a pod. Variables of this machine could make an SDK use another endpoint.
        command.env_clear();
        let kept = ["PATH", "HOME", "LANG", "TMPDIR"];
        command.envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(driver.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // Excludes the credentials for developers' machines from the chain.
        command.env("AZURE_TOKEN_CREDENTIALS", "prod").env("PYTHONDONTWRITEBYTECODE", "1");
        let endpoint = self.stack.imds_url();
        match (source, if token_request.chain { self.sdk.chain } else { Some(self.sdk.imds) }) {
            (Source::Imds, Some(ImdsAccess::Variable)) => {
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
                // msrestazure detects App Service by this variable.
                command.env("APPSETTING_WEBSITE_SITE_NAME", "orders");
            }
        }
        let output = output_of(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let response: Value = match out.lines().last().map(serde_json::from_str) {
            Some(Ok(response)) if output.status.success() => response,
            _ => panic!("{} failed; its output:\n{out}{err}", self.sdk.id),
        };
        // Printed but not asserted, because it depends on the machine.
        println!("{} {source} {}: {} ms", self.sdk.id, request["selector"], response["ms"]);
        self.version.get_or_init(|| response["version"].as_str().unwrap().to_owned());
        match response["error"]["message"].as_str() {
            Some(message) => {
                assert!(!message.contains("eyJ"), "a token is in the message");
                Err(message.to_owned())
            }
            None => {
                let tokens = response["tokens"].as_array().unwrap().iter().enumerate().map(|(index, token)| Token {
                    text: token.as_str().unwrap().to_owned(),
                    expires_on: response["expires_on"][index].as_i64().unwrap(),
                    waited_ms: response["ms"][index].as_i64().unwrap(),
                });
                Ok(tokens.collect())
            }
        }
    }

    /// Verifies a token's signature and the SDK's expiry time, and returns the claims.
    pub(crate) fn claims(&self, token: &Token) -> Value {
        assert!(self.entra().issued(&token.text, SystemTime::now()), "not a valid token of the fake Entra");
        let claims = fake_entra::claims(&token.text).unwrap();
        let difference = (token.expires_on - claims["exp"].as_i64().unwrap()).abs();
        // Some SDKs count from the request and some from the response, and all in whole seconds.
        assert!(difference <= 2 + token.waited_ms / 1000, "the SDK's expiry time differs by {difference} s");
        assert_eq!(claims["tid"], TENANT_ID);
        claims
    }

    /// Returns the number of requests to the filter's endpoint: all of them, and those with a 4xx status.
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

/// Runs a command until it exits, and kills it after [`TIMEOUT`].
fn output_of(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let out = read_in_background(child.stdout.take().unwrap());
    let err = read_in_background(child.stderr.take().unwrap());
    let deadline = Instant::now() + TIMEOUT;
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

fn read_in_background(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}
