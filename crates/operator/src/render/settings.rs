//! The settings of a manifest that the configuration does not have. A value that would break YAML is refused.

use super::Target;

/// Why a manifest cannot be made: one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

impl Refusal {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// The settings; the defaults are those of the files below `envoy/`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace.
    pub namespace: String,
    /// The label of the pods whose sidecars get the filter: name and value.
    pub label: (String, String),
    /// The module's image, without tag and digest.
    pub image: String,
    /// The tag of the image, for a WasmPlugin and a TrafficExtension: the version of the release.
    pub tag: String,
    /// The digest of the image's manifest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The version of Istio.
    pub istio: (u32, u32),
    /// The name of the GatewayClass, for Envoy Gateway.
    pub gateway_class: String,
    /// The tenant id in the variables of a workload or gateway.
    pub tenant_id: String,
    /// The client id in the variables of a workload or gateway.
    pub client_id: String,
    /// The principals that may use an egress gateway.
    pub principals: Vec<String>,
    /// Environment variables of the proxy's container.
    pub variables: Vec<(String, String)>,
    /// The hosts of the clusters of sources of federated tokens whose assertions name none: cluster, and host with an optional port.
    pub sources: Vec<(String, String)>,
}

/// A digest that no image has.
pub(super) const PLACEHOLDER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "payments".to_owned(),
            label: ("entra-exchange".to_owned(), "enabled".to_owned()),
            image: "registry.example/entra-exchange".to_owned(),
            tag: env!("CARGO_PKG_VERSION").to_owned(),
            digest: PLACEHOLDER.to_owned(),
            istio: (1, 28),
            gateway_class: "envoy-gateway".to_owned(),
            tenant_id: "11111111-1111-4111-8111-111111111111".to_owned(),
            client_id: "aaaaaaaa-0000-4000-8000-000000000001".to_owned(),
            principals: vec!["cluster.local/ns/payments/sa/api".to_owned()],
            variables: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl Settings {
    /// The settings of an egress gateway below `envoy/`: in a namespace of its own.
    pub fn of(target: Target) -> Self {
        let namespace = if target == Target::EgressGateway { "egress" } else { "payments" };
        Self { namespace: namespace.to_owned(), ..Self::default() }
    }

    pub(super) fn check(&self, target: Target) -> Result<(), Refusal> {
        let (major, minor) = target.oldest_istio();
        if target.is_istios() && self.istio < (major, minor) {
            return Err(Refusal::new(format!("{} requires Istio {major}.{minor} or later", target.as_str())));
        }
        let wrong = |what: &str, value: &str, expected: &str| {
            Err(Refusal::new(format!("{value:?} is not a valid {what}: write {expected}")))
        };
        if !is_label(&self.namespace) {
            return wrong("namespace", &self.namespace, "at most 63 of a-z, 0-9 and -");
        }
        if self.gateway_class.len() > 253 || !self.gateway_class.split('.').all(is_label) {
            return wrong("GatewayClass", &self.gateway_class, "its name: a-z, 0-9, hyphens and dots");
        }
        let (name, value) = &self.label;
        if !is_label_name(name) || !is_label_value(value) {
            return wrong("label", &format!("{name}={value}"), "NAME=VALUE as Kubernetes allows it");
        }
        if !is_image(&self.image) {
            return wrong("image", &self.image, "REGISTRY/NAME without tag and digest");
        }
        let fits_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if self.tag.is_empty() || self.tag.len() > 128 || !self.tag.bytes().all(fits_tag) {
            return wrong("tag", &self.tag, "at most 128 letters, digits, dots, hyphens and underscores");
        }
        let digest = self.digest.strip_prefix("sha256:").unwrap_or_default();
        let is_hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digest.len() != 64 || !digest.bytes().all(is_hexadecimal) {
            return wrong("digest", &self.digest, "sha256: and 64 hexadecimal digits in lower case");
        }
        for (what, id) in [("tenant id", &self.tenant_id), ("client id", &self.client_id)] {
            if id.is_empty()
                || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
                || yaml(id) != *id
            {
                return wrong(what, id, "a GUID");
            }
        }
        let fits_principal = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-*".contains(&byte);
        if let Some(one) = self.principals.iter().find(|one| one.is_empty() || !one.bytes().all(fits_principal)) {
            return wrong("principal", one, "TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT");
        }
        Ok(())
    }
}

/// A label of DNS (RFC 1123), as Kubernetes requires it for namespaces.
pub(super) fn is_label(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_label_value(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(fits) && ends(text.bytes().next()) && ends(text.bytes().next_back())
}

fn is_label_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    is_label_value(name)
        && yaml(text) == text
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label))
}

fn is_image(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"./_-:".contains(&byte);
    let (host, path) = text.split_once('/').unwrap_or_default();
    !host.is_empty() && !path.is_empty() && text.bytes().all(fits) && !path.contains(':')
}

/// Whether a text can be the name of a cluster in a manifest without quotes.
pub(super) fn is_name_of_cluster(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(fits) && !is_word(text)
}

/// Whether a text is a host: a name or an address.
pub(super) fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = (1..=253).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with(['.', '-']);
    is_name || text.parse::<std::net::IpAddr>().is_ok()
}

/// Whether a reader of YAML takes a text as a boolean or as nothing.
fn is_word(text: &str) -> bool {
    const WORDS: &[&str] = &["true", "false", "yes", "no", "on", "off", "y", "n", "null", "~"];
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A text as a scalar of YAML: plain if every reader takes it as a string, else in quotes.
pub(super) fn yaml(text: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    // A number, also one of YAML 1.1: 1_000, 0x1f, 1e3, .5.
    let has_letter = text.bytes().any(|byte| byte.is_ascii_alphabetic() && !b"eExXoObBaAcCdDfF".contains(&byte));
    let is_plain = text.bytes().all(fits)
        && !is_word(text)
        && (has_letter || text.matches('-').count() > 1 || text.matches('.').count() > 1);
    let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/');
    if is_plain && begins { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_yaml_would_not_read_as_a_string_is_quoted() {
        for plain in [
            "enabled",
            "/metadata/instance",
            "entra-exchange.health",
            "11111111-1111-4111-8111-111111111111",
            "169.254.169.254",
        ] {
            assert_eq!(yaml(plain), plain);
        }
        for quoted in ["true", "NO", "1", "1e3", "0x1f", ".5", "1_000", "*", "a: b", "a #b", "", "-", "12345678-1"] {
            assert_eq!(yaml(quoted), format!("{quoted:?}"));
        }
    }

    #[test]
    fn settings_that_would_break_the_manifest_are_refused() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check(Target::EnvoyFilter).is_err()
        };
        assert!(Settings::default().check(Target::EnvoyFilter).is_ok());
        assert!(refused(|settings| settings.namespace = "a: b".to_owned()));
        assert!(refused(|settings| settings.gateway_class = "a, b".to_owned()));
        assert!(refused(|settings| settings.gateway_class = ["a"; 128].join(".")));
        assert!(refused(|settings| settings.label.1 = "x }".to_owned()));
        assert!(refused(|settings| settings.label.0 = "a\nb".to_owned()));
        assert!(refused(|settings| settings.image = "registry.example/x@sha256:1".to_owned()));
        assert!(refused(|settings| settings.image = "x".to_owned()));
        assert!(refused(|settings| settings.tag = "1 2".to_owned()));
        assert!(refused(|settings| settings.digest = "sha256:123".to_owned()));
        assert!(refused(|settings| settings.client_id = "a\"b".to_owned()));
        assert!(refused(|settings| settings.principals = vec!["a, b".to_owned()]));
        assert!(refused(|settings| settings.istio = (1, 27)));
        assert!(Settings::default().check(Target::TrafficExtension).is_err());
    }
}
