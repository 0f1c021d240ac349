//! The credentials that a request brings.

use super::seen::Seen;
use crate::azure::HeaderForm;
use crate::decision::form_in;
use crate::entra::AccessToken;
use crate::http::Request;

/// The filter state that names the header into which a token was put: on a retry and after an internal redirect the
/// request comes again, with our token in it. The shell leaves it with every token.
pub const OWN_HEADER: &str = "entra_exchange_header";

/// Headers that hold credentials for Azure's services.
const HEADERS: [&str; 2] = ["authorization", "api-key"];

/// The header with our token of an earlier attempt, whichever destination that was for.
pub(super) fn of_an_earlier_attempt(request: &dyn Request) -> Option<String> {
    let header = request.property(&[OWN_HEADER]).filter(|header| !header.is_empty())?;
    String::from_utf8(header).ok()
}

/// The SHA-256 of the token that an earlier attempt carried in this header.
pub(super) fn carried(request: &dyn Request, header: &str, form: HeaderForm) -> Option<[u8; 32]> {
    let value = request.header(header)?;
    let token = match form_in(header, form) {
        Some(form) => form.token_in(&value),
        None => AccessToken::parse(str::from_utf8(&value).ok()?),
    };
    Some(token?.digest())
}

/// What a request brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) headers: Vec<&'static str>,
    /// The destination's own header, when it is none of those.
    pub(super) own_header: bool,
    /// A shared access signature stands in the query.
    pub(super) signature: bool,
}

impl Credentials {
    /// What a request brings of its own, for a destination whose token goes into this header.
    pub(super) fn of(seen: &Seen<'_>, header: &str) -> Self {
        let is_there = |name: &str| seen.request.header(name).is_some();
        Self {
            headers: HEADERS.into_iter().filter(|name| is_there(name)).collect(),
            own_header: !HEADERS.contains(&header) && is_there(header),
            // Azure Storage, "Create a service SAS"; other services write theirs the same way.
            signature: form_urlencoded::parse(seen.query()).any(|(name, _)| name.eq_ignore_ascii_case("sig")),
        }
    }

    pub(super) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// What they are called in a message.
    pub(super) fn name(&self, header: &str) -> String {
        let own = self.own_header.then(|| format!("a header {header} of its own"));
        let named = self.headers.iter().map(|name| format!("a header {name} of its own"));
        let signature = self.signature.then(|| "a signature (sig=) in its query".to_owned());
        let all: Vec<String> = named.chain(own).chain(signature).collect();
        all.join(" and ")
    }
}
