//! Issuer and subject of the tokens of Azure DevOps service connections (learn.microsoft.com, "Troubleshoot workload identity service
//! connections").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The application of Azure DevOps at Entra.
const APPLICATION: &str = "499b84ac-1321-427f-aa17-267ca6975798";

/// Issuer and subject.
pub(crate) type Claims = (String, String);

/// The claims of a connection of today: Entra is the issuer. `tenant`, `organization` and `connection` are their ids. `None` if the
/// tenant is not a GUID.
pub(crate) fn by_id(tenant: &str, organization: &str, connection: &str) -> Option<Claims> {
    let prefix = format!("/eid1/c/pub/t/{}/a/{}", encoded(tenant)?, encoded(APPLICATION)?);
    let subject = format!("{prefix}/sc/{}/{}", organization.to_lowercase(), connection.to_lowercase());
    Some((format!("https://login.microsoftonline.com/{}/v2.0", tenant.to_lowercase()), subject))
}

/// The claims of an older connection, with the id of its organization and its name `ORGANIZATION/PROJECT/NAME`.
pub(crate) fn by_name(organization: &str, name: &str) -> Claims {
    (format!("https://vstoken.dev.azure.com/{}", organization.to_lowercase()), format!("sc://{name}"))
}

/// Whether a text is a GUID (RFC 9562, section 4).
pub fn is_guid(text: &str) -> bool {
    bytes(text).is_some()
}

/// The bytes of a GUID in base64url, in the order of .NET: the first three groups are little-endian.
fn encoded(guid: &str) -> Option<String> {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes(guid)?;
    let mut ordered = vec![d, c, b, a, f, e, h, g];
    ordered.extend(rest);
    Some(URL_SAFE_NO_PAD.encode(ordered))
}

fn bytes(guid: &str) -> Option<[u8; 16]> {
    let groups: Vec<usize> = guid.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] || !guid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return None;
    }
    Some(u128::from_str_radix(&guid.replace('-', ""), 16).ok()?.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANIZATION: &str = "0ca3ddd9-f0b0-4635-a98c-5866526961b6";

    #[test]
    fn the_subject_has_the_ids_as_azure_devops_writes_them() {
        let (issuer, subject) =
            by_id("FF882432-09b0-437b-bd22-ca13c0037ded", ORGANIZATION, "64171687-7a59-4fce-b2c8-823278dcf176")
                .unwrap();
        assert_eq!(issuer, "https://login.microsoftonline.com/ff882432-09b0-437b-bd22-ca13c0037ded/v2.0");
        assert_eq!(
            subject,
            "/eid1/c/pub/t/MiSI_7AJe0O9IsoTwAN97Q/a/rISbSSETf0KqFyZ8ppdXmA/sc/0ca3ddd9-f0b0-4635-a98c-5866526961b6/\
             64171687-7a59-4fce-b2c8-823278dcf176"
        );
        assert!(by_id("contoso.com", ORGANIZATION, "c").is_none() && !is_guid("ff882432-09b0-437b-bd22ca13c0037ded-"));
    }

    #[test]
    fn an_older_connection_has_a_name_as_subject() {
        let expected = (format!("https://vstoken.dev.azure.com/{ORGANIZATION}"), "sc://org/project/a name".to_owned());
        assert_eq!(by_name(ORGANIZATION, "org/project/a name"), expected);
    }
}
