//! The JWT-SVIDs that SPIRE issues, what Entra says of them, and whether the fake answers like the real agent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use fake_entra::{Credential, Directory};
use fake_sources::{Fetched, SpiffeServer, Svid, WorkloadApi, fetch_svids};
use serde_json::{Value, json};
use stack::spire::{AUDIT_ID, FOR_ENTRA, ID, ISSUER, Spire};
use stack::{AUDIENCE, CLIENT_ID};

use crate::real_server::Test;
use crate::workload::exchanged;

pub(crate) const ALL: &[Test<Spire>] = &[
    ("entra_accepts_a_jwt_svid_by_the_keys_of_the_discovery_provider", |spire| {
        let discovery = spire.read("/.well-known/openid-configuration").unwrap().json();
        assert_eq!((&discovery["issuer"], &discovery["jwks_uri"]), (&json!(ISSUER), &json!(format!("{ISSUER}/keys"))));
        let svid = wait_for(&spire.socket(), ID);
        let claims = fake_entra::claims(&svid.token).unwrap();
        assert_eq!((&claims["iss"], &claims["aud"], &claims["sub"]), (&json!(ISSUER), &json!([AUDIENCE]), &json!(ID)));
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);

        let entra = Directory::new();
        trust(&entra, spire);
        assert_eq!(exchanged(&entra, &svid.token), 200);
    }),
    ("the_documented_settings_are_those_of_this_server", |_| {
        let page = fs::read_to_string(stack::root().join("docs/sources.md")).unwrap();
        assert!(page.contains(&format!("server {{\n{FOR_ENTRA}}}")));
    }),
    ("the_fake_answers_like_the_real_agent", |spire| {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let _fake = SpiffeServer::start(&WorkloadApi::new().with_audit_identity(), &socket).unwrap();
        wait_for(&spire.socket(), AUDIT_ID);
        for (audience, id) in
            [(AUDIENCE, ""), (AUDIENCE, ID), (AUDIENCE, AUDIT_ID), (AUDIENCE, "spiffe://example.org/other"), ("", ID)]
        {
            let real = fetch_svids(&spire.socket(), audience, id).unwrap();
            let fake = fetch_svids(&socket, audience, id).unwrap();
            assert_eq!(shown(fake), shown(real), "{audience:?} {id}");
        }
    }),
];

/// Waits until the agent knows the entry of this SPIFFE ID, and returns its JWT-SVID.
pub(crate) fn wait_for(socket: &Path, id: &str) -> Svid {
    let mut svid = None;
    let is_known = || match fetch_svids(socket, AUDIENCE, id) {
        Ok(Fetched::Svids(svids)) => {
            svid = svids.into_iter().next();
            true
        }
        _ => false,
    };
    assert!(stack::eventually(Duration::from_secs(60), is_known), "the agent does not know {id}");
    svid.unwrap()
}

/// Makes Entra know SPIRE's keys and the workload's federated credential.
pub(crate) fn trust(entra: &Directory, spire: &Spire) {
    entra.trust_issuer(ISSUER, spire.read("/keys").unwrap().json());
    let credential = Credential { issuer: ISSUER.to_owned(), subject: ID.to_owned(), ..stack::credential(CLIENT_ID) };
    entra.register_credential(credential).unwrap();
}

/// What an answer says: the ids, hints, claims and header fields of its tokens in the order of their ids, or its status.
fn shown(answer: Fetched) -> Value {
    let svids = match answer {
        Fetched::Failed(status, message) => return json!([status, message]),
        Fetched::Svids(svids) => svids,
    };
    let mut svids: Vec<Value> = svids.iter().map(|svid| json!([svid.id, svid.hint, form(&svid.token)])).collect();
    svids.sort_by_key(Value::to_string);
    json!(svids)
}

/// The header of a token without its key id, the names of its claims, and its audience.
fn form(token: &str) -> Value {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let mut header: Value = serde_json::from_slice(&header).unwrap();
    assert!(header["kid"].take().is_string());
    let claims = fake_entra::claims(token).unwrap();
    let mut names: Vec<&String> = claims.as_object().unwrap().keys().collect();
    names.sort();
    json!([header, names, claims["aud"], claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap()])
}
