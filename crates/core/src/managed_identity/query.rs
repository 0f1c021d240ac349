//! The query parameters of a token request to IMDS or App Service.

use crate::broker::RejectedToken;
use crate::problem::{Code, Problem};
use crate::untrusted::{UntrustedText, holds_jwt, is_invisible};

/// The parameters by which clients of any Azure protocol select an identity, in lower case. Every protocol accepts all of them: some
/// clients send one protocol's parameter to another's endpoint, and if it were ignored they would get the token of the default
/// identity. `msi-res-id` is a misspelling in Azure.Identity for .NET.
const SELECTORS: &[(&str, IdKind)] = &[
    ("client_id", IdKind::Client),
    ("clientid", IdKind::Client),
    ("object_id", IdKind::Object),
    ("principal_id", IdKind::Object),
    ("msi_res_id", IdKind::Resource),
    ("mi_res_id", IdKind::Resource),
    ("msi-res-id", IdKind::Resource),
];

/// The kind of id by which a caller selects an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdKind {
    /// The client id.
    Client,
    /// The object id of the service principal.
    Object,
    /// The Azure resource id.
    Resource,
}

/// The id by which a caller selects an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) kind: IdKind,
    /// The parameter's name, in lower case.
    pub(super) parameter: &'static str,
    pub(super) value: String,
}

/// The maximum number of query parameters. Each name is compared with all previous ones, so without a limit the cost of a query would
/// grow with the square of its length. Clients send fewer than ten.
const MOST_PARAMETERS: usize = 64;

/// The parameters of a token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// The value of `api-version`, if present.
    pub(super) version: Option<String>,
    /// The resource as the caller sent it.
    pub(super) resource: String,
    /// The identity that the caller selects, if any.
    pub(super) selector: Option<Selector>,
    /// The token that the caller rejects, if any.
    pub(super) rejected_token: Option<RejectedToken>,
}

impl Query {
    /// Parses a query string (application/x-www-form-urlencoded). The case of parameter names is ignored. An empty selector selects no
    /// identity, as in aad-pod-identity and azwi: clients send `client_id=` if a variable is not set.
    ///
    /// # Errors
    /// If a parameter occurs twice, two of them select an identity, the resource is missing or not valid, or there are more than
    /// [`MOST_PARAMETERS`].
    pub(super) fn read(query: &[u8]) -> Result<Self, Problem> {
        let mut version = None;
        let mut resource = None;
        let mut selector: Option<Selector> = None;
        let mut rejected_token = None;
        let mut names: Vec<String> = Vec::new();
        for (name, value) in form_urlencoded::parse(query) {
            if names.len() == MOST_PARAMETERS {
                return Err(bad(
                    format!("the query has more than {MOST_PARAMETERS} parameters"),
                    "Send only the parameters of the token request.",
                ));
            }
            let name = name.to_ascii_lowercase();
            if names.contains(&name) {
                return Err(bad(
                    format!("the parameter {:?} occurs twice", UntrustedText::new(&name)),
                    "Send each parameter once.",
                ));
            }
            if let Some((parameter, kind)) = SELECTORS.iter().find(|(parameter, _)| *parameter == name) {
                if !value.is_empty() {
                    let next = Selector { kind: *kind, parameter, value: value.into_owned() };
                    if let Some(before) = selector.replace(next) {
                        return Err(bad(
                            format!("{} and {parameter} both select an identity", before.parameter),
                            "Send only one of the two.",
                        ));
                    }
                }
            } else {
                match name.as_str() {
                    "resource" => resource = Some(value.into_owned()),
                    "api-version" => version = Some(value.into_owned()),
                    // A hash names the rejected token, so it takes precedence over `bypass_cache`.
                    "bypass_cache" if value.eq_ignore_ascii_case("true") => {
                        rejected_token = rejected_token.or(Some(RejectedToken::Cached))
                    }
                    "token_sha256_to_refresh" => rejected_token = Some(RejectedToken::Digest(read_digest(&value)?)),
                    // Clients send other parameters, such as xms_cc. IMDS ignores unknown ones.
                    _ => {}
                }
            }
            names.push(name);
        }
        match resource {
            Some(resource) if may_be_resource(&resource) => Ok(Self { version, resource, selector, rejected_token }),
            _ => Err(bad(
                "the parameter resource is missing, empty, longer than 1 KB, or has a space, a control character or a token",
                "Send the resource that the token is for, such as resource=https://vault.azure.net.",
            )),
        }
    }

    /// The scope for the resource. Entra takes the text before the last slash as the resource, so a trailing slash is kept.
    pub(super) fn scope(&self) -> String {
        if self.resource.ends_with("/.default") {
            self.resource.clone()
        } else {
            [&self.resource, "/.default"].concat()
        }
    }
}

/// Whether a text can be a resource. It becomes the scope, which is logged, so a token that is sent by mistake is not accepted.
fn may_be_resource(text: &str) -> bool {
    let is_bad = |character: char| character.is_whitespace() || is_invisible(character);
    // Most resources have characters of this range only, which need no search in the ranges of Unicode.
    let is_plain = text.as_bytes().iter().all(u8::is_ascii_graphic);
    (1..=UntrustedText::LONGEST).contains(&text.len()) && (is_plain || !text.contains(is_bad)) && !holds_jwt(text)
}

/// The problem that a query is not valid.
pub(super) fn bad(detail: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem::new(Code::BadQuery, detail, remedy)
}

/// Parses a SHA-256 in hexadecimal digits.
fn read_digest(text: &str) -> Result<[u8; 32], Problem> {
    let mut digest = [0; 32];
    let mut digits = text.chars().map(|digit| digit.to_digit(16));
    for byte in &mut digest {
        let pair = digits.next().flatten().zip(digits.next().flatten());
        let value = pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        *byte = value.ok_or_else(|| not_a_digest(text))?;
    }
    if digits.next().is_some() { Err(not_a_digest(text)) } else { Ok(digest) }
}

/// The problem that a value is not a SHA-256. The value is not quoted, because it may be the token itself.
fn not_a_digest(text: &str) -> Problem {
    bad(
        format!("token_sha256_to_refresh has {} characters and is not a SHA-256", text.chars().count()),
        "Send the SHA-256 of the rejected token as 64 hexadecimal digits.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Query, String> {
        Query::read(query.as_bytes()).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_resource_is_read_with_or_without_percent_encoding() {
        for query in ["resource=https%3A%2F%2Fvault.azure.net", "resource=https://vault.azure.net&xms_cc=cp1"] {
            assert_eq!(read(query).unwrap().resource, "https://vault.azure.net");
        }
        assert_eq!(read("resource=api%3A%2F%2Fb%C3%BCcher").unwrap().resource, "api://bücher");
        assert!(read(&format!("resource={}", "a".repeat(1024))).is_ok());
    }

    #[test]
    fn a_resource_becomes_its_default_scope_and_keeps_its_slash() {
        for (resource, scope) in [
            ("https://vault.azure.net", "https://vault.azure.net/.default"),
            ("https://vault.azure.net/", "https://vault.azure.net//.default"),
            ("https://vault.azure.net/.default", "https://vault.azure.net/.default"),
        ] {
            assert_eq!(read(&format!("resource={resource}")).unwrap().scope(), scope);
        }
    }

    #[test]
    fn an_invalid_query_is_rejected() {
        for query in [
            "",
            "resource=",
            "resource=a%20b",
            "resource=a%C2%85b",
            "resource=a%E2%80%AEb",
            "resource=a%E2%80%A8b",
            &format!("resource={}", "a".repeat(1025)),
            "resource=x&resource=x",
            "resource=x&client_id=a&object_id=b",
            "resource=x&client_id=a&client_id=a",
            "resource=x&client_id=a&Client_ID=a",
            "resource=x&client_id=&client_id=a",
            "resource=x&clientid=a&client_id=a",
            "resource=x&Resource=x",
            "resource=x&%72esource=x",
            "resource=x&xms_cc=cp1&xms_cc=cp1",
            "resource=x&token_sha256_to_refresh=cc0a",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn every_protocols_selector_is_recognized_in_any_case_and_encoding() {
        for (query, parameter, value) in [
            ("client_id=b", "client_id", "b"),
            ("CLIENT_ID=b", "client_id", "b"),
            ("clientId=b", "clientid", "b"),
            ("client%5Fid=b", "client_id", "b"),
            ("%43lientid=b%2Fc", "clientid", "b/c"),
            ("Object_Id=b", "object_id", "b"),
            ("principal_ID=b", "principal_id", "b"),
            ("MSI_RES_ID=/a+b", "msi_res_id", "/a b"),
            ("Mi_Res_Id=%2Fa%20b", "mi_res_id", "/a b"),
            ("msi-res-id=b", "msi-res-id", "b"),
            // Any value that is not empty selects an identity.
            ("client_id=+", "client_id", " "),
            ("client_id=%00", "client_id", "\0"),
        ] {
            let selector = read(&format!("{query}&resource=x")).unwrap().selector.unwrap();
            assert_eq!((selector.parameter, selector.value.as_str()), (parameter, value), "{query}");
        }
        for query in ["client+id=b", "client_id%00=b", "identity=b", "xclient_id=b", "cli\u{212a}ent_id=b"] {
            assert_eq!(read(&format!("resource=x&{query}")).unwrap().selector, None, "{query}");
        }
    }

    #[test]
    fn an_empty_selector_selects_no_identity() {
        for query in ["client_id=", "client_id", "ClientId=", "%63lient_id=", "object_id=&mi_res_id=&clientid="] {
            assert_eq!(read(&format!("{query}&resource=x")).unwrap().selector, None, "{query}");
        }
        for query in ["client_id=b&object_id=", "Principal_Id=&client_id=b", "mi_res_id&client_id=b&clientid="] {
            assert_eq!(read(&format!("resource=x&{query}")).unwrap().selector.unwrap().value, "b", "{query}");
        }
    }

    #[test]
    fn a_rejected_token_is_named_by_its_hash() {
        // The SHA-256 of "test_token", as in MSAL's tests.
        let hash = "cc0af97287543b65da2c7e1476426021826cab166f1e063ed012b855ff819656";
        let rejected_token = read(&format!("resource=x&token_sha256_to_refresh={hash}")).unwrap().rejected_token;
        let token = crate::entra::AccessToken::parse("test_token").unwrap();
        assert_eq!(rejected_token, Some(RejectedToken::Digest(token.digest())));
        assert_eq!(read("resource=x&bypass_cache=True").unwrap().rejected_token, Some(RejectedToken::Cached));
        assert_eq!(read("resource=x&bypass_cache=false").unwrap().rejected_token, None);
        for both in [
            format!("token_sha256_to_refresh={hash}&bypass_cache=true"),
            format!("bypass_cache=true&token_sha256_to_refresh={hash}"),
        ] {
            let rejected_token = read(&format!("resource=x&{both}")).unwrap().rejected_token;
            assert_eq!(
                rejected_token,
                Some(RejectedToken::Digest(token.digest())),
                "the hash takes precedence: {both}"
            );
        }
        assert!(read(&format!("resource=x&token_sha256_to_refresh={hash}0")).is_err());
    }

    #[test]
    fn a_token_that_is_sent_as_a_parameter_is_not_quoted() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmF0dXJl";
        for query in [
            format!("resource={token}"),
            format!("resource=https://vault.azure.net/{token}"),
            format!("resource=x&token_sha256_to_refresh={token}"),
            format!("resource=x&token_sha256_to_refresh=opaque-{}", "0aA".repeat(40)),
        ] {
            let problem = Query::read(query.as_bytes()).unwrap_err();
            let text = format!("{} {}", problem.detail, problem.remedy);
            assert!(!text.contains("eyJ") && !text.contains("0aA0aA"), "{text}");
        }
        for resource in ["api://monkeyJobs", "api://Contoso-Production-PaymentService-2026-Backend-For-Frontend"] {
            assert_eq!(read(&format!("resource={resource}")).unwrap().resource, resource);
        }
    }

    #[test]
    fn a_query_has_at_most_64_parameters() {
        let with = |count: usize| -> String { (0..count).map(|number| format!("&p{number}=")).collect() };
        assert!(read(&format!("resource=x{}", with(63))).is_ok());
        assert_eq!(read(&format!("resource=x{}", with(64))).unwrap_err(), "the query has more than 64 parameters");
        // Parsing ends at the limit, so the rest of a long query costs nothing.
        assert_eq!(read(&format!("resource=x{}", with(100_000))).unwrap_err(), "the query has more than 64 parameters");
        assert!(read(&format!("resource=x{}", "&".repeat(100_000))).is_ok(), "an empty parameter does not count");
    }
}
