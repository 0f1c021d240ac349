//! The authority: the host of the token endpoint, and the Azure cloud that it belongs to.

use std::fmt;

/// A host of Microsoft's token endpoints.
struct Known {
    host: &'static str,
    /// Its cloud, if that has a table of services.
    cloud: Option<Cloud>,
    /// The audience of federated credentials in its cloud.
    audience: &'static str,
}

/// Microsoft's token endpoint hosts and their aliases (learn.microsoft.com, "National clouds" and "Sovereign clouds": Microsoft Entra
/// authentication endpoints), with the audiences of "Configure an application to trust a managed identity" and of the Azure SDK
/// (github.com/Azure/azure-sdk-for-js, sdk/identity/identity/src/credentials/gitHubActionsCredential.ts).
const KNOWN: &[Known] = &[
    known("login.microsoftonline.com", Some(Cloud::Public), Authority::PUBLIC_AUDIENCE),
    known("login.microsoft.com", Some(Cloud::Public), Authority::PUBLIC_AUDIENCE),
    known("login.windows.net", Some(Cloud::Public), Authority::PUBLIC_AUDIENCE),
    known("sts.windows.net", Some(Cloud::Public), Authority::PUBLIC_AUDIENCE),
    known("login.microsoftonline.us", Some(Cloud::UsGovernment), "api://AzureADTokenExchangeUSGov"),
    known("login.usgovcloudapi.net", Some(Cloud::UsGovernment), "api://AzureADTokenExchangeUSGov"),
    known("login.partner.microsoftonline.cn", Some(Cloud::China), "api://AzureADTokenExchangeChina"),
    known("login.chinacloudapi.cn", Some(Cloud::China), "api://AzureADTokenExchangeChina"),
    known("login.sovcloud-identity.fr", Some(Cloud::Bleu), "api://AzureADTokenExchangeFrance"),
    known("login.sovcloud-identity.de", Some(Cloud::Delos), "api://AzureADTokenExchangeGermany"),
    known("login.sovcloud-identity.sg", None, "api://AzureADTokenExchangeGovSG"),
];

const fn known(host: &'static str, cloud: Option<Cloud>, audience: &'static str) -> Known {
    Known { host, cloud, audience }
}

/// An Azure cloud whose services can be configured by name (`azure_service`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Azure's public (global) cloud.
    Public,
    /// Azure Government.
    UsGovernment,
    /// Azure operated by 21Vianet.
    China,
    /// Azure operated by Bleu, in France.
    Bleu,
    /// Azure operated by Delos, in Germany.
    Delos,
}

impl Cloud {
    /// All clouds.
    pub const ALL: [Self; 5] = [Self::Public, Self::UsGovernment, Self::China, Self::Bleu, Self::Delos];

    /// The cloud's id in `data/azure-services.tsv`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::UsGovernment => "us_government",
            Self::China => "china",
            Self::Bleu => "bleu",
            Self::Delos => "delos",
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Public => "the public cloud",
            Self::UsGovernment => "the US Government cloud",
            Self::China => "the cloud in China",
            Self::Bleu => "Bleu's cloud in France",
            Self::Delos => "Delos' cloud in Germany",
        })
    }
}

/// Whether the issuer of a token is Entra: the URL is that of a tenant at one of Microsoft's authorities.
pub(crate) fn is_issuer(url: &str) -> bool {
    let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    host.is_some_and(|host| find(host).is_some())
}

fn find(host: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.host == host)
}

/// An authority, such as `https://login.microsoftonline.com`: always HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    host: String,
    path_prefix: String,
}

/// Why a text is not an accepted authority. `Display` continues a sentence that begins with the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityMistake {
    /// The text is not `https://` and a host.
    NotAnHttpsHost,
    /// The host is not one of Microsoft's.
    Unknown,
}

impl fmt::Display for AuthorityMistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotAnHttpsHost => {
                "is not a valid authority: write https:// and a host, such as https://login.microsoftonline.com"
            }
            Self::Unknown => {
                "is not one of Microsoft's authorities: write one of them, such as https://login.microsoftonline.com, \
                 or set entra.unknown_authority to \"allow\""
            }
        })
    }
}

impl Authority {
    /// The audience of federated credentials in the public cloud.
    pub(crate) const PUBLIC_AUDIENCE: &str = "api://AzureADTokenExchange";

    /// The audience of federated credentials in the authority's cloud. That of the public cloud if the cloud is not known.
    pub fn audience(&self) -> &'static str {
        find(&self.host).map_or(Self::PUBLIC_AUDIENCE, |known| known.audience)
    }

    /// Parses `https://host`, with or without a trailing slash (the workload-identity webhook writes one). Case is ignored,
    /// and port 443 is the same as no port (RFC 3986, section 6.2).
    ///
    /// # Errors
    /// If the text has another form, or if the host is not one of Microsoft's and `unknown_allowed` is false.
    pub fn parse(text: &str, unknown_allowed: bool) -> Result<Self, AuthorityMistake> {
        const SCHEME: &str = "https://";
        let text = text.to_ascii_lowercase();
        let host = text.strip_prefix(SCHEME).ok_or(AuthorityMistake::NotAnHttpsHost)?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let (name, port) = host.split_once(':').unwrap_or((host, "443"));
        let name_is_plain =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        let port = if port.bytes().all(|byte| byte.is_ascii_digit()) { port.parse::<u16>().ok() } else { None };
        let host = match port {
            _ if !name_is_plain => return Err(AuthorityMistake::NotAnHttpsHost),
            None | Some(0) => return Err(AuthorityMistake::NotAnHttpsHost),
            Some(443) => name.to_owned(),
            Some(port) => format!("{name}:{port}"),
        };
        if !unknown_allowed && find(&host).is_none() {
            return Err(AuthorityMistake::Unknown);
        }
        Ok(Self { host, path_prefix: String::new() })
    }

    /// The authority of the public cloud.
    pub fn public() -> Self {
        Self { host: "login.microsoftonline.com".to_owned(), path_prefix: String::new() }
    }

    /// The cloud of the authority, if its services can be configured by name.
    pub fn cloud(&self) -> Option<Cloud> {
        find(&self.host)?.cloud
    }

    /// The host, with a port unless it is 443.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The same authority, whose clusters lead to a service that expects this path before the path of the token endpoint.
    pub(crate) fn behind(mut self, path_prefix: &str) -> Self {
        path_prefix.trim_end_matches('/').clone_into(&mut self.path_prefix);
        self
    }

    /// The path before that of the token endpoint: empty, unless another service is in front of it.
    pub(crate) fn path_prefix(&self) -> &str {
        &self.path_prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_and_capitals_are_ignored() {
        let authority = Authority::parse("https://login.microsoftonline.com/", false).unwrap();
        assert_eq!(authority, Authority::public());
        assert_eq!(
            Authority::parse("https://Login.MicrosoftOnline.us", false).unwrap().host(),
            "login.microsoftonline.us"
        );
    }

    #[test]
    fn port_443_is_the_same_as_no_port() {
        for text in [
            "https://login.microsoftonline.com:443",
            "https://login.microsoftonline.com:443/",
            "HTTPS://LOGIN.MICROSOFTONLINE.COM/",
            "Https://login.microsoftonline.com:0443",
        ] {
            let authority = Authority::parse(text, false).unwrap();
            assert_eq!((&authority, authority.cloud()), (&Authority::public(), Some(Cloud::Public)), "{text}");
        }
        assert_eq!(Authority::parse("https://login.microsoftonline.com:444", false), Err(AuthorityMistake::Unknown));
    }

    #[test]
    fn an_authority_belongs_to_a_cloud() {
        let cloud = |text: &str| Authority::parse(text, false).unwrap().cloud();
        assert_eq!(Authority::public().cloud(), Some(Cloud::Public));
        assert_eq!(cloud("https://login.microsoftonline.us/"), Some(Cloud::UsGovernment));
        assert_eq!(cloud("https://login.partner.microsoftonline.cn"), Some(Cloud::China));
        assert_eq!(cloud("https://login.sovcloud-identity.fr"), Some(Cloud::Bleu));
        assert_eq!(cloud("https://login.sovcloud-identity.de"), Some(Cloud::Delos));
        assert_eq!(cloud("https://login.sovcloud-identity.sg"), None);
    }

    #[test]
    fn a_text_that_is_not_an_authority_is_rejected() {
        for text in [
            "",
            "login.microsoftonline.com",
            "http://login.microsoftonline.com",
            "https://",
            "https:///",
            "https://login.microsoftonline.com/tenant",
            "https://a@login.microsoftonline.com",
            "https://x:y",
            "https://x:",
            "https://x:0",
            "https://x:+443",
            "https://x:65536",
            "https://x:443:443",
            "https://login.microsoftonline.com?x",
            "https://login.microsoftonline.com//",
        ] {
            assert_eq!(Authority::parse(text, true), Err(AuthorityMistake::NotAnHttpsHost), "{text}");
        }
    }

    #[test]
    fn an_unknown_authority_is_accepted_only_if_it_is_allowed() {
        let text = "https://login.microsoftonline.com.evil.example";
        assert_eq!(Authority::parse(text, true).unwrap().cloud(), None);
        assert_eq!(Authority::parse(text, false), Err(AuthorityMistake::Unknown));
        assert_eq!(Authority::parse("https://entra.example:8443", true).unwrap().host(), "entra.example:8443");
    }
}
