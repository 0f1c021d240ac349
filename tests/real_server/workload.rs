//! What Entra makes of a real server's tokens: the workload's access token.

use std::time::SystemTime;

use fake_entra::Directory;
use stack::{CLIENT_ID, Response, TENANT_ID};

/// Presents a token to Entra as the workload's client assertion, and returns the status of the response.
pub(crate) fn exchanged(entra: &Directory, token: &str) -> u16 {
    entra.register_resource("https://vault.azure.net");
    let form = format!(
        "grant_type=client_credentials&client_id={CLIENT_ID}&scope=https://vault.azure.net/.default&client_assertion_type=\
         urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={token}"
    );
    entra.token(TENANT_ID, form.as_bytes(), SystemTime::now()).status
}

/// Panics unless the upstream saw the workload's access token.
pub(crate) fn has_the_workloads_token(answer: &Response, log: &str) {
    assert_eq!(answer.status, 200, "{}\n{log}", answer.text());
    let authorization = answer.seen_header("authorization").expect("a token");
    let token = authorization.strip_prefix("Bearer ").expect("a bearer token");
    assert_eq!(fake_entra::claims(token).unwrap()["appid"], CLIENT_ID);
}
