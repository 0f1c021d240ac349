//! Runs a real Vault that issues identity tokens for one workload.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::error::StartError;
use crate::process::{self, Process};
use crate::workload::AUDIENCE;

/// The version that `scripts/fetch-vault` builds, with the program `tests/vault/main.go`.
pub const VERSION: &str = "1.21.4";
/// The `iss` of its identity tokens.
pub const ISSUER: &str = "https://vault.example/v1/identity/oidc";
/// The role whose client id is [`AUDIENCE`].
pub const ROLE: &str = "payments";
/// A role whose key does not allow its client id.
pub const DISALLOWED_ROLE: &str = "disallowed";

const PASSWORD: &str = "password-of-a-test";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running Vault: in memory, unsealed, in plaintext on loopback. It stops when dropped.
pub struct Vault {
    address: SocketAddr,
    root_token: String,
    entity: String,
    process: Process,
}

impl Vault {
    /// Starts Vault on a free port of 127.0.0.1 and configures it: a key and a role for identity tokens, a policy, and an entity with a
    /// login.
    ///
    /// # Errors
    /// When Vault is not built, not ready after a minute, or rejects its configuration.
    pub fn start() -> Result<Self, StartError> {
        let binary = process::installed(&format!(".tools/vault-{VERSION}/vault"), "scripts/fetch-vault")?;
        let folder = process::folder()?;
        let address = SocketAddr::from(([127, 0, 0, 1], process::free_port()?));
        let mut command = Command::new(binary);
        command.arg(address.to_string()).env_clear().env("GOMAXPROCS", "2").env("GOMEMLIMIT", "256MiB");
        let health = Request::get("vault.example", "/v1/sys/health").timeout(Duration::from_secs(2));
        let is_ready = || health.send(address).is_ok_and(|response| response.status == 200);
        let process = Process::start("Vault", folder, command, START_TIMEOUT, is_ready)?;
        // Its log begins with the root token.
        let root_token = process.log().lines().next().unwrap_or_default().to_owned();
        let mut vault = Self { address, root_token, entity: String::new(), process };
        vault.configure()?;
        Ok(vault)
    }

    /// The address of the API.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The root token, which has no entity.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The id of the workload's entity, the `sub` of its tokens.
    pub fn entity(&self) -> &str {
        &self.entity
    }

    /// Logs the workload in and returns its Vault token.
    ///
    /// # Errors
    /// When Vault rejects the login.
    pub fn login(&self) -> Result<String, StartError> {
        let login = self.write("auth/userpass/login/payments", &json!({ "password": PASSWORD }))?;
        text(&login, "/auth/client_token")
    }

    /// Revokes a Vault token.
    ///
    /// # Errors
    /// When Vault does not know it.
    pub fn revoke(&self, token: &str) -> Result<(), StartError> {
        self.write("auth/token/revoke", &json!({ "token": token })).map(|_| ())
    }

    /// Sends a GET to a path below `/v1/`, with this Vault token unless it is empty.
    ///
    /// # Errors
    /// When there is no response.
    pub fn read(&self, path: &str, token: &str) -> io::Result<Response> {
        self.send("GET", path, token)
    }

    /// Sends a request without a body to a path below `/v1/`, with this Vault token unless it is empty.
    ///
    /// # Errors
    /// When there is no response.
    pub fn send(&self, method: &str, path: &str, token: &str) -> io::Result<Response> {
        let request = Request::new(method, "vault.example", &format!("/v1/{path}"));
        let request = if token.is_empty() { request } else { request.header("x-vault-token", token) };
        request.send(self.address)
    }

    /// Returns Vault's log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn configure(&mut self) -> Result<(), StartError> {
        self.write("identity/oidc/config", &json!({ "issuer": "https://vault.example" }))?;
        let key = json!({ "algorithm": "RS256", "allowed_client_ids": [AUDIENCE], "verification_ttl": "1h" });
        self.write("identity/oidc/key/entra", &key)?;
        let role = json!({ "key": "entra", "client_id": AUDIENCE, "ttl": "1h" });
        self.write(&format!("identity/oidc/role/{ROLE}"), &role)?;
        let role = json!({ "key": "entra", "client_id": "api://another", "ttl": "1h" });
        self.write(&format!("identity/oidc/role/{DISALLOWED_ROLE}"), &role)?;
        let policy = "path \"identity/oidc/token/*\" { capabilities = [\"read\"] }";
        self.write("sys/policies/acl/payments", &json!({ "policy": policy }))?;
        self.write("sys/auth/userpass", &json!({ "type": "userpass" }))?;
        let user = json!({ "password": PASSWORD, "token_policies": ["payments"], "token_ttl": "1h" });
        self.write("auth/userpass/users/payments", &user)?;
        // The first login creates the entity.
        let login = self.write("auth/userpass/login/payments", &json!({ "password": PASSWORD }))?;
        self.entity = text(&login, "/auth/entity_id")?;
        Ok(())
    }

    fn write(&self, path: &str, body: &Value) -> Result<Value, StartError> {
        let request = Request::post("vault.example", &format!("/v1/{path}"), body.to_string());
        let request = request.header("x-vault-token", &self.root_token).header("content-type", "application/json");
        let response = request.send(self.address).map_err(StartError::io(format!("writing {path} in Vault")))?;
        match response.status {
            200 => Ok(response.json()),
            204 => Ok(Value::Null),
            status => Err(StartError::Administration(format!("Vault: {path}: {status}: {}", response.text()))),
        }
    }
}

fn text(document: &Value, pointer: &str) -> Result<String, StartError> {
    let value = document.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    value.ok_or_else(|| StartError::Administration(format!("Vault's response has no {pointer}")))
}
