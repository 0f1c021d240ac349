//! Managed identity: an app that asks the instance metadata service (IMDS) for a token is answered here.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities on an Azure VM to acquire an access token". The guard is
//! IMDS's own: `Metadata: true` and no `X-Forwarded-For`, so that no app can be tricked into asking for somebody else.

use serde::Serialize;

use crate::broker::Issued;
use crate::http::{Reply, Request};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The oldest version of the token request.
const OLDEST_VERSION: &str = "2018-02-01";

/// The parameters that choose an identity; `msi-res-id` is how one library misspells it.
const SELECTORS: [&str; 6] = ["client_id", "object_id", "principal_id", "msi_res_id", "mi_res_id", "msi-res-id"];

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenQuery {
    /// As it was sent.
    pub(crate) resource: String,
    /// The one identity that was named: by which parameter, and its value.
    pub(crate) selector: Option<(String, String)>,
}

impl TokenQuery {
    /// The scope that stands for the resource: Entra takes all before the last slash, so a trailing one is kept.
    pub(crate) fn scope(&self) -> String {
        format!("{}/.default", self.resource)
    }

    /// Reads a request to a host where IMDS is answered.
    ///
    /// # Errors
    /// When it is not to be answered with a token: [`reply`] renders why.
    pub(crate) fn read(request: &dyn Request) -> Result<Self, Problem> {
        if !is_local(request) {
            return Err(Problem::new(
                Code::NotLocal,
                "a managed identity is answered only to its own pod, on a loopback address or 169.254.169.254",
                "Call the sidecar in the same pod; bind its managed-identity listener to 127.0.0.1.",
            ));
        }
        let target = request.header(":path").unwrap_or_default();
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(mark) => (target.get(..mark).unwrap_or_default(), target.get(mark..).unwrap_or_default()),
            None => (target.as_slice(), [].as_slice()),
        };
        judge_path(path)?;
        if request.header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case(b"true")) {
            return Err(Problem::new(
                Code::MetadataHeaderMissing,
                "Required metadata header not specified",
                "Send the header Metadata: true.",
            ));
        }
        if request.header("x-forwarded-for").is_some() {
            return Err(Problem::new(
                Code::Forwarded,
                "the request has an X-Forwarded-For header: a proxy forwarded it",
                "Call the endpoint without a proxy. If Envoy itself adds the header: set use_remote_address: false on \
                 the listener's connection manager.",
            ));
        }
        if request.header(":method").is_none_or(|method| method != b"GET") {
            return Err(Problem::new(Code::MethodNotAllowed, "a token is asked for with GET", "Send a GET request."));
        }
        Self::read_query(query.strip_prefix(b"?").unwrap_or_default())
    }

    fn read_query(query: &[u8]) -> Result<Self, Problem> {
        let bad = |detail: String, remedy: &str| Err(Problem::new(Code::BadQuery, detail, remedy));
        let mut resource = None;
        let mut version = None;
        let mut selector = None;
        let mut names: Vec<String> = Vec::new();
        for (name, value) in form_urlencoded::parse(query) {
            if names.iter().any(|before| *before == name) {
                return bad(format!("the parameter {name:?} stands twice"), "Write each parameter once.");
            }
            match &*name {
                "resource" => resource = Some(value.into_owned()),
                "api-version" => version = Some(value.into_owned()),
                known if SELECTORS.contains(&known) => {
                    if let Some((before, _)) = selector.replace((known.to_owned(), value.into_owned())) {
                        return bad(
                            format!("{before} and {known} both name an identity"),
                            "Name the identity in one way.",
                        );
                    }
                }
                // Clients send more, such as bypass_cache and xms_cc; IMDS ignores what it does not know.
                _ => {}
            }
            names.push(name.into_owned());
        }
        if version.is_none_or(|version| version.as_str() < OLDEST_VERSION) {
            return bad(
                format!("api-version is missing or older than {OLDEST_VERSION}"),
                "Send api-version=2018-02-01 or a later one.",
            );
        }
        match resource {
            Some(resource) if !resource.is_empty() && !resource.contains(char::is_whitespace) => {
                Ok(Self { resource, selector })
            }
            _ => bad(
                "the parameter resource is missing or none".to_owned(),
                "Send the resource that the token is for, such as resource=https://vault.azure.net.",
            ),
        }
    }
}

/// Whether the connection came in on a loopback address or on IMDS's own.
fn is_local(request: &dyn Request) -> bool {
    let address = request.property(&["destination", "address"]).unwrap_or_default();
    let address = String::from_utf8(address).ok();
    address
        .and_then(|address| address.parse::<std::net::SocketAddr>().ok())
        .is_some_and(|address| address.ip().is_loopback() || address.ip().to_string() == "169.254.169.254")
}

/// The token path: `metadata` in any case, `//` at its start (an older MSAL4J) and one slash at its end (MSAL Node).
fn judge_path(path: &[u8]) -> Result<(), Problem> {
    let path = path.strip_prefix(b"//").or_else(|| path.strip_prefix(b"/")).unwrap_or_default();
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let (first, rest) = match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash..).unwrap_or_default()),
        None => (path, [].as_slice()),
    };
    match rest {
        b"/identity/oauth2/token" if first.eq_ignore_ascii_case(b"metadata") => Ok(()),
        // A 400 here would tell MSAL.NET that IMDS's second version is spoken.
        b"/identity/getplatformmetadata" | b"/identity/issuecredential" => Err(Problem::new(
            Code::PathNotFound,
            "this part of the metadata service is not offered",
            "Ask for a token at /metadata/identity/oauth2/token.",
        )),
        _ => Err(Problem::new(
            Code::PathRefused,
            "only tokens are answered here, not other metadata of the node",
            "Ask for a token at /metadata/identity/oauth2/token.",
        )),
    }
}

/// A token as IMDS replies it: all strings, and `expires_in` before `expires_on`, because MSAL.NET takes the last of
/// the two, MSAL Python reads only the former and MSAL for Java, Node and Rust only the latter.
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    client_id: &'a str,
    expires_in: String,
    expires_on: String,
    ext_expires_in: String,
    not_before: String,
    resource: &'a str,
    token_type: &'static str,
}

/// IMDS's error (same page, "Error handling").
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_description: String,
}

/// What IMDS replies with a token for `resource`.
pub(crate) fn token_reply(issued: &Issued, client_id: &str, resource: &str, now: Timestamp) -> Reply {
    let expires_in = issued.expires_at().since(now).as_secs().to_string();
    Reply::json(
        200,
        "application/json; charset=utf-8",
        &TokenBody {
            access_token: issued.token().expose(),
            client_id,
            ext_expires_in: expires_in.clone(),
            expires_in,
            expires_on: issued.expires_at().unix_seconds().to_string(),
            not_before: issued.issued_at().unix_seconds().to_string(),
            resource,
            token_type: "Bearer",
        },
    )
}

/// What IMDS replies when something went wrong. Clients retry 404, 410, 429 and 5xx, and give up on other 4xx: so Entra's
/// refusal is 400, and what may pass 503.
pub(crate) fn problem_reply(problem: &Problem) -> Reply {
    let status = match problem.code {
        Code::EntraRefused => 400,
        Code::WaitedTooLong => 503,
        code => code.status(),
    };
    let error = match (status, problem.entra.error.as_deref()) {
        (400, Some(error)) => error,
        (503, _) => "temporarily_unavailable",
        _ => "invalid_request",
    };
    let description = format!("{}. {}", problem.detail.trim_end_matches('.'), problem.remedy);
    problem.with_retry_after(Reply::json(
        status,
        "application/json; charset=utf-8",
        &ErrorBody { error, error_description: description },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entra::AccessToken;
    use crate::http::tests::Sent;
    use std::time::Duration;

    const TOKEN_PATH: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

    fn sent(path: &str) -> Sent {
        Sent::get("169.254.169.254", path)
            .header("metadata", b"true")
            .property(&["destination", "address"], "127.0.0.1:15002")
    }

    fn code(sent: &Sent) -> Code {
        TokenQuery::read(sent).unwrap_err().code
    }

    #[test]
    fn a_token_request_is_read_as_each_library_writes_it() {
        for path in [
            TOKEN_PATH,
            "//metadata/identity/oauth2/token?resource=https%3A%2F%2Fvault.azure.net&api-version=2019-08-01",
            "/metadata/identity/oauth2/token/?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&xms_cc=cp1",
            "/Metadata/identity/oauth2/token?api-version=2021-02-01&resource=https://vault.azure.net&bypass_cache=true",
        ] {
            let query = TokenQuery::read(&sent(path)).unwrap();
            assert_eq!((query.resource.as_str(), &query.selector), ("https://vault.azure.net", &None), "{path}");
        }
        let query = TokenQuery::read(&sent(&format!("{TOKEN_PATH}/&client_id=c"))).unwrap();
        assert_eq!(query.scope(), "https://vault.azure.net//.default");
        assert_eq!(query.selector, Some(("client_id".into(), "c".into())));
    }

    #[test]
    fn the_guard_is_imdss_own() {
        assert_eq!(
            code(&Sent::get("h", TOKEN_PATH).property(&["destination", "address"], "127.0.0.1:80")),
            Code::MetadataHeaderMissing
        );
        assert_eq!(code(&sent(TOKEN_PATH).header("metadata", b"yes")), Code::MetadataHeaderMissing);
        assert_eq!(code(&sent(TOKEN_PATH).header("x-forwarded-for", b"10.0.0.1")), Code::Forwarded);
        assert_eq!(code(&sent(TOKEN_PATH).header(":method", b"POST")), Code::MethodNotAllowed);
        for (address, local) in [("169.254.169.254:80", true), ("[::1]:80", true), ("10.0.0.7:80", false), ("", false)]
        {
            let outcome = TokenQuery::read(&sent(TOKEN_PATH).property(&["destination", "address"], address));
            assert_eq!(outcome.is_ok(), local, "{address}");
        }
    }

    #[test]
    fn a_query_that_cannot_be_judged_is_refused() {
        for more in ["&resource=x", "&client_id=a&object_id=b", "&client_id=a&client_id=a"] {
            assert_eq!(code(&sent(&format!("{TOKEN_PATH}{more}"))), Code::BadQuery, "{more}");
        }
        for query in [
            "",
            "?",
            "?api-version=2018-02-01",
            "?resource=x",
            "?api-version=2017-12-01&resource=x",
            "?api-version=2018-02-01&resource=",
        ] {
            assert_eq!(code(&sent(&format!("/metadata/identity/oauth2/token{query}"))), Code::BadQuery, "{query}");
        }
    }

    #[test]
    fn other_paths_are_no_token_path() {
        for path in [
            "/",
            "/metadata/instance",
            "/metadata/identity/oauth2/tokenfoo",
            "/metadata/identity/oauth2/token/x",
            "/x/identity/oauth2/token",
            "",
            "///metadata/identity/oauth2/token",
        ] {
            assert_eq!(code(&sent(path)), Code::PathRefused, "{path}");
        }
        for path in
            ["/metadata/identity/getplatformmetadata?cred-api-version=2.0", "/metadata/identity/issuecredential"]
        {
            assert_eq!(code(&sent(path)), Code::PathNotFound, "{path}");
        }
    }

    #[test]
    fn the_reply_is_all_strings_in_imdss_order() {
        let now = Timestamp::from_unix_seconds(1000);
        let issued = Issued::new(AccessToken::parse("abc").unwrap(), now, Duration::from_secs(3599), None, 0);
        let reply = token_reply(&issued, "c", "https://vault.azure.net/", now.plus(Duration::from_secs(99)));
        assert_eq!(reply.status, 200);
        assert!(reply.headers.contains(&("cache-control", "no-store".to_owned())));
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            concat!(
                r#"{"access_token":"abc","client_id":"c","expires_in":"3500","expires_on":"4599","ext_expires_in":"3500","#,
                r#""not_before":"1000","resource":"https://vault.azure.net/","token_type":"Bearer"}"#
            )
        );
    }

    #[test]
    fn entras_refusal_is_final_and_what_may_pass_is_retried() {
        let mut problem = Problem::new(Code::EntraRefused, "AADSTS700016: no such application", "Correct it.");
        problem.entra.error = Some("unauthorized_client".into());
        let reply = problem_reply(&problem);
        assert_eq!(reply.status, 400);
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            r#"{"error":"unauthorized_client","error_description":"AADSTS700016: no such application. Correct it."}"#
        );
        let reply = problem_reply(&Problem::new(Code::WaitedTooLong, "d", "r").retry_after(Duration::from_secs(2)));
        assert_eq!(reply.status, 503);
        assert!(reply.headers.contains(&("retry-after", "2".to_owned())));
        assert!(String::from_utf8(reply.body).unwrap().starts_with(r#"{"error":"temporarily_unavailable""#));
    }
}
