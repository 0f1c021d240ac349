//! The texts that the page offers to start from: the repository's own configurations, and one with mistakes.

use serde_json::{Value, json};

const WITH_MISTAKES: &str = "\
# Five mistakes and two risks.
entra:
  clusters: entra
identities:
- name: Payments
  tenant_id: 11111111-1111-4111-8111-111111111111
  client_id: payments-api
destinations:
- azure_service: key_vault
  names: [payments-kv]
  tls_cluster: [payments_kv]
- hosts: [api.example.com]
  scope: api://orders
  plaintext: allow
";

/// A text with a request that it is about.
struct Example {
    name: &'static str,
    text: &'static str,
    url: &'static str,
}

const EXAMPLES: &[Example] = &[
    Example {
        name: "Istio sidecar (YAML)",
        text: include_str!("../../../envoy/configuration/istio.yaml"),
        url: "http://payments-kv.vault.azure.net/secrets/db",
    },
    Example {
        name: "Plain Envoy with managed-identity endpoints (JSON)",
        text: include_str!("../../../envoy/configuration/sidecar.json"),
        url: "http://payments-kv.vault.azure.net/secrets/db",
    },
    Example {
        name: "Egress gateway (JSON)",
        text: include_str!("../../../envoy/configuration/egress-gateway.json"),
        url: "http://payments-kv.vault.azure.net/secrets/db",
    },
    Example {
        name: "EnvoyFilter (manifest)",
        text: include_str!("../../../envoy/istio/envoyfilter.yaml"),
        url: "http://payments-kv.vault.azure.net/secrets/db",
    },
    Example { name: "Configuration with mistakes (YAML)", text: WITH_MISTAKES, url: "http://api.example.com/orders" },
];

pub(crate) fn all() -> Value {
    let example = |one: &Example| json!({ "name": one.name, "text": one.text, "url": one.url });
    EXAMPLES.iter().map(example).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use operator::{Options, Severity, Source};

    use super::*;

    #[test]
    fn only_the_example_with_mistakes_has_some() {
        for example in EXAMPLES {
            let checked = operator::check(&[Source::new("x", example.text)], &Options::default());
            let is_wrong = checked.count(Severity::Error) > 0;
            assert_eq!(is_wrong, example.text == WITH_MISTAKES, "{}: {:?}", example.name, checked.findings);
            if is_wrong {
                assert_eq!(checked.findings.len(), 7, "{:#?}", checked.findings);
            }
        }
    }
}
