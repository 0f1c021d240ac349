use fake_http::Request;
use fake_sources::{Source, Vault};

use crate::{exchange, is_strict, json, now, set};

fn request(vault: &Vault) -> Request {
    Request::new("GET", "/v1/identity/oidc/token/payments").with_header("x-vault-token", &vault.token())
}

#[test]
fn only_a_valid_vault_token_reads_the_role() {
    let vault = Vault::new().requiring_request_header();
    is_strict(
        &vault,
        &request(&vault).with_header("x-vault-request", "true"),
        &[
            ("no request header", 412, "X-Vault-Request", &|request| set(request, "x-vault-request", "")),
            ("no token", 403, "permission denied", &|request| set(request, "x-vault-token", "")),
            ("another token", 403, "invalid token", &|request| set(request, "x-vault-token", "x")),
            ("another role", 400, "role \"orders\" not found", &|request| {
                request.target = "/v1/identity/oidc/token/orders".to_owned();
            }),
            ("another path", 404, "no handler", &|request| request.target = "/v1/another/payments".to_owned()),
            ("a POST", 405, "unsupported operation", &|request| request.method = "POST".to_owned()),
        ],
    );
}

#[test]
fn a_renewed_vault_token_replaces_the_former_one() {
    let vault = Vault::new();
    let former = request(&vault);
    assert_eq!(vault.respond(&former, now()).status, 200);
    let renewed = vault.renew_token();
    assert_eq!(vault.respond(&former, now()).status, 403);
    let request = Request::new("GET", &former.target).with_header("x-vault-token", &renewed);
    assert_eq!(vault.respond(&request, now()).status, 200);
}

#[test]
fn entra_accepts_its_tokens() {
    let vault = Vault::new();
    let body = json(&vault.respond(&request(&vault), now()));
    assert_eq!(
        (&body["data"]["client_id"], &body["data"]["ttl"]),
        (&"api://AzureADTokenExchange".into(), &3600.into())
    );
    assert_eq!(exchange(&vault, body["data"]["token"].as_str().expect("a token"), now()), "issued");
}

#[test]
fn its_errors_are_lists_of_texts() {
    let vault = Vault::new();
    vault.add_faults([Vault::sealed(), Vault::standby(), Vault::quota(), Vault::no_entity()]);
    let responses: Vec<_> = (0..4).map(|_| vault.respond(&request(&vault), now())).collect();
    assert_eq!(responses.iter().map(|response| response.status).collect::<Vec<_>>(), [503, 473, 429, 400]);
    assert_eq!(json(&responses[0])["errors"][0], "Vault is sealed");
}
