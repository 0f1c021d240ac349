//! The scope of a client-credentials request names exactly one resource.

use crate::catalogue::Refusal;

/// Scopes of OpenID Connect that some clients add (MSAL Go does); this grant ignores them.
const OPENID_SCOPES: [&str; 4] = ["openid", "profile", "offline_access", "email"];

const DEFAULT: &str = "/.default";

/// The resource that `scope` asks for: everything before the last slash of the part that ends in
/// `/.default`, so `https://vault.azure.net//.default` asks for `https://vault.azure.net/`.
///
/// Refuses with 1002012 a scope that is not of that form, and with 70011 more than one resource.
pub(crate) fn resource(scope: &str) -> Result<&str, Refusal> {
    let mut asked: Vec<&str> =
        scope.split(' ').filter(|part| !part.is_empty() && !OPENID_SCOPES.contains(part)).collect();
    asked.dedup();
    let resources: Option<Vec<&str>> =
        asked.iter().map(|part| part.strip_suffix(DEFAULT).filter(|resource| !resource.is_empty())).collect();
    match resources.as_deref() {
        Some([resource]) => Ok(resource),
        Some([_, _, ..]) => Err(Refusal::new(
            70011,
            format!(
                "The provided request must include a 'scope' input parameter. The provided value for the input \
                 parameter 'scope' is not valid. One or more scopes in '{scope}' are not compatible with each other."
            ),
        )),
        Some([]) | None => Err(Refusal::new(
            1002012,
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
                 with /.default suffixed to the resource identifier (application ID URI)."
            ),
        )),
    }
}

/// Whether a fault for the scope `wanted` applies to a request for `scope`: the same text, or one
/// of its parts.
pub(crate) fn names(scope: &str, wanted: &str) -> bool {
    scope == wanted || scope.split(' ').any(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_is_everything_before_the_last_slash() {
        assert_eq!(resource("https://vault.azure.net/.default"), Ok("https://vault.azure.net"));
        assert_eq!(resource("https://vault.azure.net//.default"), Ok("https://vault.azure.net/"));
        assert_eq!(resource("api://payments/v1/.default"), Ok("api://payments/v1"));
    }

    #[test]
    fn scopes_of_openid_connect_are_ignored() {
        assert_eq!(
            resource("https://vault.azure.net/.default openid offline_access profile"),
            Ok("https://vault.azure.net")
        );
    }

    #[test]
    fn anything_but_one_resource_is_refused() {
        let code = |scope| resource(scope).map_err(|refusal| refusal.code);
        assert_eq!(code("https://vault.azure.net/.default https://storage.azure.com/.default"), Err(70011));
        assert_eq!(code("https://vault.azure.net"), Err(1002012));
        assert_eq!(code("https://graph.microsoft.com/User.Read"), Err(1002012));
        assert_eq!(code("openid profile"), Err(1002012));
        assert_eq!(code("/.default"), Err(1002012));
        assert_eq!(code(".default"), Err(1002012));
    }
}
