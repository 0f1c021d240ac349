//! Parses the scope of a client-credentials request, which names exactly one resource.

use crate::catalogue::EntraError;

/// Scopes of OpenID Connect that some clients add (MSAL Go does) and that the client-credentials grant ignores.
const OPENID_SCOPES: [&str; 4] = ["openid", "profile", "offline_access", "email"];

const DEFAULT: &str = "/.default";

/// Returns the resource of `scope`: everything before the last slash of the part that ends in
/// `/.default`. `https://vault.azure.net//.default` names the resource `https://vault.azure.net/`.
///
/// The error is 1002012 for a scope without this format and 70011 for more than one resource.
pub(crate) fn resource(scope: &str) -> Result<&str, EntraError> {
    let mut parts: Vec<&str> =
        scope.split(' ').filter(|part| !part.is_empty() && !OPENID_SCOPES.contains(part)).collect();
    parts.dedup();
    let resources: Option<Vec<&str>> =
        parts.iter().map(|part| part.strip_suffix(DEFAULT).filter(|resource| !resource.is_empty())).collect();
    match resources.as_deref() {
        Some([resource]) => Ok(resource),
        Some([_, _, ..]) => Err(EntraError::new(
            70011,
            format!(
                "The provided request must include a 'scope' input parameter. The provided value for the input \
                 parameter 'scope' is not valid. One or more scopes in '{scope}' are not compatible with each other."
            ),
        )),
        Some([]) | None => Err(EntraError::new(
            1002012,
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
                 with /.default suffixed to the resource identifier (application ID URI)."
            ),
        )),
    }
}

/// Whether `scope` is `wanted` or has it as one of its parts.
pub(crate) fn contains(scope: &str, wanted: &str) -> bool {
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
    fn anything_but_one_resource_is_rejected() {
        let code = |scope| resource(scope).map_err(|error| error.code);
        assert_eq!(code("https://vault.azure.net/.default https://storage.azure.com/.default"), Err(70011));
        assert_eq!(code("https://vault.azure.net"), Err(1002012));
        assert_eq!(code("https://graph.microsoft.com/User.Read"), Err(1002012));
        assert_eq!(code("openid profile"), Err(1002012));
        assert_eq!(code("/.default"), Err(1002012));
        assert_eq!(code(".default"), Err(1002012));
    }
}
