//! The credentials that a request brings.

use std::sync::Arc;

use super::request_view::RequestView;
use crate::azure::{CredentialPlaces, HeaderForm};
use crate::decision::form_in;
use crate::entra::AccessToken;
use crate::http::RequestAccess;

/// The filter state that names the header into which a token was put: on a retry and after an internal redirect the
/// request comes again, with our token in it. The shell leaves it with every token.
pub const OWN_HEADER: &str = "entra_exchange_header";

/// Schemes of `Authorization` (RFC 9110, section 11.4; Azure Storage and Service Bus, "SharedKey", "SharedAccessSignature"). One
/// that nothing follows is what an unset variable leaves of a credential.
const SCHEMES: [&[u8]; 5] = [b"bearer", b"basic", b"sharedkey", b"sharedkeylite", b"sharedaccesssignature"];

/// The header with our token of an earlier attempt, whichever destination that was for.
pub(super) fn of_an_earlier_attempt(request: &dyn RequestAccess) -> Option<String> {
    let header = request.property(&[OWN_HEADER]).filter(|header| !header.is_empty())?;
    String::from_utf8(header).ok()
}

/// The SHA-256 of the token that an earlier attempt carried in this header.
pub(super) fn carried(request: &dyn RequestAccess, header: &str, form: HeaderForm) -> Option<[u8; 32]> {
    let value = request.header(header)?;
    let token = match form_in(header, form) {
        Some(form) => form.token_in(&value),
        None => AccessToken::parse(str::from_utf8(&value).ok()?),
    };
    Some(token?.digest())
}

/// Where a destination's clients put their credentials.
pub(super) struct Places {
    /// `Authorization`, the header that takes the token, and those of the service. In lower case.
    headers: Vec<Arc<str>>,
    /// Parameters of the query.
    parameters: Vec<&'static str>,
}

/// The credentials that a request brings, by the names of where they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    headers: Vec<Arc<str>>,
    /// Headers for credentials that hold none.
    empty_headers: Vec<Arc<str>>,
    parameters: Vec<&'static str>,
}

impl Places {
    /// The places of a service's credentials, for a destination whose token goes into `header`.
    pub(super) fn new(service: CredentialPlaces, header: &Arc<str>) -> Self {
        let mut headers = vec![Arc::from("authorization")];
        for name in [Arc::clone(header)].into_iter().chain(service.headers().map(Arc::from)) {
            if !headers.contains(&name) {
                headers.push(name);
            }
        }
        Self { headers, parameters: service.parameters().collect() }
    }

    /// What a request brings of its own.
    pub(super) fn look(&self, view: &RequestView<'_>) -> Credentials {
        let mut found = Credentials::default();
        for name in &self.headers {
            match view.request.header(name) {
                Some(value) if is_empty(&value) => found.empty_headers.push(Arc::clone(name)),
                Some(_) => found.headers.push(Arc::clone(name)),
                None => {}
            }
        }
        if !self.parameters.is_empty() {
            let written: Vec<_> = form_urlencoded::parse(view.query()).filter(|(_, value)| !value.is_empty()).collect();
            let is_there = |name: &&str| written.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            found.parameters = self.parameters.iter().copied().filter(is_there).collect();
        }
        found
    }
}

/// Whether a header's value holds no credential: nothing, or a scheme that nothing follows. Envoy joins several values of a header by
/// commas.
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

    /// Whether they can be removed: a header can, what is part of the address cannot.
    pub(super) const fn are_removable(&self) -> bool {
        self.parameters.is_empty()
    }

    /// The headers to remove when a token is set, those without a credential among them.
    pub(super) fn into_headers(self) -> impl Iterator<Item = String> {
        self.headers.into_iter().chain(self.empty_headers).map(|name| name.as_ref().to_owned())
    }

    /// Their names, for a log line: headers as they are, parameters with a `?`.
    pub(super) fn names(&self) -> String {
        let headers = self.headers.iter().map(|name| name.as_ref().to_owned());
        let all: Vec<String> = headers.chain(self.parameters.iter().map(|name| format!("?{name}"))).collect();
        all.join(",")
    }

    /// What they are called in a message.
    pub(super) fn in_words(&self) -> String {
        let headers = self.headers.iter().map(|name| format!("a header {name} of its own"));
        let parameters = self.parameters.iter().map(|name| format!("a parameter {name}= in its query"));
        headers.chain(parameters).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Sent;

    fn look(places: &Places, request: &Sent) -> Credentials {
        places.look(&RequestView::new(request))
    }

    #[test]
    fn an_empty_header_or_parameter_is_not_a_credential() {
        let places = Places::new(CredentialPlaces::USUAL, &Arc::from("authorization"));
        for value in
            ["", " ", "Bearer", "bearer ", "BASIC", ",", ", ,", "SharedKey", " Bearer ,", "SharedAccessSignature"]
        {
            let found = look(&places, &Sent::get("a", "/").header("authorization", value.as_bytes()));
            assert!(found.are_none(), "{value:?}");
            assert_eq!(found.into_headers().collect::<Vec<_>>(), ["authorization"], "{value:?}");
        }
        for value in [&b"x"[..], b"Bearer x", b"\xff", b"bearerx", b"Negotiate", b",x"] {
            assert!(!look(&places, &Sent::get("a", "/").header("authorization", value)).are_none(), "{value:?}");
        }
        for path in ["/?sig=", "/?sig", "/?sig=&sv=1", "/?s%69g=", "/", "/?signature=x"] {
            assert!(look(&places, &Sent::get("a", path)).are_none(), "{path}");
        }
        for path in ["/?sig=x", "/?a&SIG=x", "/?sig=&sig=x", "/?%73ig=%20"] {
            assert_eq!(look(&places, &Sent::get("a", path)).names(), "?sig", "{path}");
        }
    }

    #[test]
    fn each_place_is_looked_at_once() {
        let places = Places::new(CredentialPlaces::USUAL, &Arc::from("api-key"));
        let request = Sent::get("a", "/?sig=x").header("api-key", b"k").header("authorization", b"Bearer ");
        let found = look(&places, &request);
        assert_eq!((found.names().as_str(), found.are_removable()), ("api-key,?sig", false));
        assert_eq!(*request.reads.borrow(), ["authorization", "api-key", ":path"]);
        assert_eq!(found.in_words(), "a header api-key of its own and a parameter sig= in its query");
        assert_eq!(found.into_headers().collect::<Vec<_>>(), ["api-key", "authorization"]);
    }
}
