//! The authority: which cloud issues the tokens.

use std::fmt;

/// The hosts that Microsoft runs token endpoints on, and their aliases
/// (learn.microsoft.com, "National clouds" and "Sovereign clouds": Microsoft Entra authentication endpoints).
const KNOWN: &[(&str, Option<Cloud>)] = &[
    ("login.microsoftonline.com", Some(Cloud::Public)),
    ("login.microsoft.com", Some(Cloud::Public)),
    ("login.windows.net", Some(Cloud::Public)),
    ("sts.windows.net", Some(Cloud::Public)),
    ("login.microsoftonline.us", Some(Cloud::UsGovernment)),
    ("login.usgovcloudapi.net", Some(Cloud::UsGovernment)),
    ("login.partner.microsoftonline.cn", Some(Cloud::China)),
    ("login.chinacloudapi.cn", Some(Cloud::China)),
    ("login.sovcloud-identity.fr", None),
    ("login.sovcloud-identity.de", None),
    ("login.sovcloud-identity.sg", None),
];

/// A cloud whose services are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Azure for everybody.
    Public,
    /// Azure Government.
    UsGovernment,
    /// Azure operated by 21Vianet.
    China,
}

impl Cloud {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Public, Self::UsGovernment, Self::China];

    /// Its word in the data.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::UsGovernment => "us_government",
            Self::China => "china",
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Public => "the public cloud",
            Self::UsGovernment => "the US Government cloud",
            Self::China => "the cloud in China",
        })
    }
}

/// Where tokens come from, such as `https://login.microsoftonline.com`: always HTTPS, no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority(String);

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityMistake {
    /// Not `https://host`.
    NotAnHttpsHost,
    /// None of Microsoft's.
    Unknown,
}

impl fmt::Display for AuthorityMistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotAnHttpsHost => {
                "is no authority: write https:// and a host, such as https://login.microsoftonline.com"
            }
            Self::Unknown => {
                "is none of Microsoft's authorities: write one, such as https://login.microsoftonline.com, \
                 or set entra.unknown_authority to \"allowed\""
            }
        })
    }
}

impl Authority {
    /// Reads `https://host`, with or without a trailing slash (the workload-identity webhook writes one). Scheme and host
    /// are read in any case, and port 443 is the same as none (RFC 3986, section 6.2).
    ///
    /// # Errors
    /// When it is not that, or names none of Microsoft's hosts and `unknown_allowed` is false.
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
        if !unknown_allowed && !KNOWN.iter().any(|(known, _)| *known == host) {
            return Err(AuthorityMistake::Unknown);
        }
        Ok(Self(host))
    }

    /// The public cloud's.
    pub fn public() -> Self {
        Self("login.microsoftonline.com".to_owned())
    }

    /// The cloud, when it is one whose services are known by name.
    pub fn cloud(&self) -> Option<Cloud> {
        KNOWN.iter().find(|(known, _)| *known == self.0).and_then(|(_, cloud)| *cloud)
    }

    /// Host, with a port when it is not 443.
    pub fn host(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhooks_form_and_ours_are_one() {
        let authority = Authority::parse("https://login.microsoftonline.com/", false).unwrap();
        assert_eq!(authority, Authority::public());
        assert_eq!(
            Authority::parse("https://Login.MicrosoftOnline.us", false).unwrap().host(),
            "login.microsoftonline.us"
        );
    }

    #[test]
    fn port_443_and_capitals_make_no_difference() {
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
    fn an_authority_tells_its_cloud() {
        let cloud = |text: &str| Authority::parse(text, false).unwrap().cloud();
        assert_eq!(Authority::public().cloud(), Some(Cloud::Public));
        assert_eq!(cloud("https://login.microsoftonline.us/"), Some(Cloud::UsGovernment));
        assert_eq!(cloud("https://login.partner.microsoftonline.cn"), Some(Cloud::China));
        assert_eq!(cloud("https://login.sovcloud-identity.fr"), None);
    }

    #[test]
    fn what_is_no_authority_is_refused() {
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
    fn a_stranger_needs_a_word() {
        let text = "https://login.microsoftonline.com.evil.example";
        assert_eq!(Authority::parse(text, true).unwrap().cloud(), None);
        assert_eq!(Authority::parse(text, false), Err(AuthorityMistake::Unknown));
        assert_eq!(Authority::parse("https://entra.example:8443", true).unwrap().host(), "entra.example:8443");
    }
}
