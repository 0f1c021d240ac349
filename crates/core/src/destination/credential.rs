//! The credentials that a request already carries.

use std::sync::Arc;

use crate::azure::{CredentialPlaces, HeaderForm};
use crate::decision::form_in;
use crate::entra::AccessToken;
use crate::request::RequestView;

/// Schemes of `Authorization` (RFC 9110, section 11.4; Azure Storage and Service Bus, "SharedKey", "SharedAccessSignature"). A
/// scheme without a value is not a credential: an unset variable in a client leads to it.
const SCHEMES: [&[u8]; 5] = [b"bearer", b"basic", b"sharedkey", b"sharedkeylite", b"sharedaccesssignature"];

/// The SHA-256 of the token that an earlier attempt carried in this header.
pub(super) fn carried(request: &RequestView<'_>, header: &str, form: HeaderForm) -> Option<[u8; 32]> {
    let value = request.header(header)?;
    let token = match form_in(header, form) {
        Some(form) => form.token_in(value),
        None => AccessToken::parse(str::from_utf8(value).ok()?),
    };
    Some(token?.digest())
}

/// The places in a request where a destination's clients put their credentials.
pub(super) struct Places {
    /// The headers in lower case: `Authorization`, the header that carries the token, and those of the service.
    headers: Vec<Arc<str>>,
    /// The query parameters.
    parameters: Vec<&'static str>,
}

/// The credentials that a request carries, by the names of their headers and query parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    headers: Vec<Arc<str>>,
    /// Credential headers that are present and hold no credential.
    empty_headers: Vec<Arc<str>>,
    parameters: Vec<&'static str>,
}

impl Places {
    /// The places for a destination with the credentials of `service`, whose token is injected into `header`.
    pub(super) fn new(service: CredentialPlaces, header: &Arc<str>) -> Self {
        let mut headers = vec![Arc::from("authorization")];
        for name in [Arc::clone(header)].into_iter().chain(service.headers().map(Arc::from)) {
            if !headers.contains(&name) {
                headers.push(name);
            }
        }
        Self { headers, parameters: service.parameters().collect() }
    }

    /// Finds the credentials of a request.
    pub(super) fn find(&self, view: &RequestView<'_>) -> Credentials {
        let mut found = Credentials::default();
        for name in &self.headers {
            match view.header(name) {
                Some(value) if is_empty(value) => found.empty_headers.push(Arc::clone(name)),
                Some(_) => found.headers.push(Arc::clone(name)),
                None => {}
            }
        }
        let query = if self.parameters.is_empty() { &[] } else { view.query() };
        if !query.is_empty() {
            let present: Vec<_> = form_urlencoded::parse(query).filter(|(_, value)| !value.is_empty()).collect();
            let is_present = |name: &&str| present.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            found.parameters = self.parameters.iter().copied().filter(is_present).collect();
        }
        found
    }
}

/// Whether a header's value holds no credential: it is empty, or a scheme without a value. Envoy joins several values of a header
/// with commas.
fn is_empty(value: &[u8]) -> bool {
    let filler = |byte: &u8| byte.is_ascii_whitespace() || *byte == b',';
    let start = value.iter().position(|byte| !filler(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !filler(byte)).map_or(start, |last| last.saturating_add(1));
    let value = value.get(start..end).unwrap_or_default();
    value.is_empty() || SCHEMES.iter().any(|scheme| value.eq_ignore_ascii_case(scheme))
}

impl Credentials {
    pub(super) const fn are_none(&self) -> bool {
        self.headers.is_empty() && self.parameters.is_empty()
    }

    /// Whether all of them can be removed: a header can, a query parameter cannot.
    pub(super) const fn are_removable(&self) -> bool {
        self.parameters.is_empty()
    }

    /// The headers to remove when a token is injected, including those that hold no credential.
    pub(super) fn into_headers(self) -> Vec<Arc<str>> {
        let mut headers = self.headers;
        headers.extend(self.empty_headers);
        headers
    }

    /// Their names for a log line; a `?` precedes the name of a query parameter.
    pub(super) fn names(&self) -> String {
        let headers = self.headers.iter().map(|name| name.as_ref().to_owned());
        let all: Vec<String> = headers.chain(self.parameters.iter().map(|name| format!("?{name}"))).collect();
        all.join(",")
    }

    /// Their description in a message.
    pub(super) fn description(&self) -> String {
        let headers = self.headers.iter().map(|name| format!("a credential in the header {name}"));
        let parameters = self.parameters.iter().map(|name| format!("a credential in the query parameter {name}"));
        headers.chain(parameters).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::Sent;

    fn find(places: &Places, request: &Sent) -> Credentials {
        places.find(&RequestView::new(request))
    }

    #[test]
    fn an_empty_header_or_parameter_is_not_a_credential() {
        let places = Places::new(CredentialPlaces::USUAL, &Arc::from("authorization"));
        for value in
            ["", " ", "Bearer", "bearer ", "BASIC", ",", ", ,", "SharedKey", " Bearer ,", "SharedAccessSignature"]
        {
            let found = find(&places, &Sent::get("a", "/").header("authorization", value.as_bytes()));
            assert!(found.are_none(), "{value:?}");
            assert_eq!(found.into_headers(), [Arc::from("authorization")], "{value:?}");
        }
        for value in [&b"x"[..], b"Bearer x", b"\xff", b"bearerx", b"Negotiate", b",x"] {
            assert!(!find(&places, &Sent::get("a", "/").header("authorization", value)).are_none(), "{value:?}");
        }
        for path in ["/?sig=", "/?sig", "/?sig=&sv=1", "/?s%69g=", "/", "/?signature=x"] {
            assert!(find(&places, &Sent::get("a", path)).are_none(), "{path}");
        }
        for path in ["/?sig=x", "/?a&SIG=x", "/?sig=&sig=x", "/?%73ig=%20"] {
            assert_eq!(find(&places, &Sent::get("a", path)).names(), "?sig", "{path}");
        }
    }

    #[test]
    fn all_places_are_found_in_one_read() {
        let places = Places::new(CredentialPlaces::USUAL, &Arc::from("api-key"));
        let request = Sent::get("a", "/?sig=x").header("api-key", b"k").header("authorization", b"Bearer ");
        let found = find(&places, &request);
        assert_eq!((found.names().as_str(), found.are_removable()), ("api-key,?sig", false));
        assert_eq!(*request.reads.borrow(), ["headers"]);
        assert_eq!(
            found.description(),
            "a credential in the header api-key and a credential in the query parameter sig"
        );
        assert_eq!(found.into_headers(), [Arc::from("api-key"), Arc::from("authorization")]);
    }
}
