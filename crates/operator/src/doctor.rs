//! `doctor`: judges what was found on a machine: variables, token file, Envoy's clusters. Each line is in order, or says what to do.

use std::collections::BTreeMap;

use entra_exchange_core::config::Config;
use entra_exchange_core::untrusted::UntrustedText;
use serde::Serialize;

use crate::token;

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub subject: String,
    /// Whether it is in order.
    pub good: bool,
    /// What was found.
    pub found: String,
    /// What to do, if it is not in order.
    pub remedy: Option<String>,
}

impl Line {
    /// In order.
    pub fn good(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self { subject: subject.into(), good: true, found: found.into(), remedy: None }
    }

    /// Not in order.
    pub fn bad(subject: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject: subject.into(), good: false, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// The line for people.
    pub fn text(&self) -> String {
        let mark = if self.good { "ok    " } else { "wrong " };
        let remedy = self.remedy.as_ref().map(|remedy| format!("\n      {remedy}")).unwrap_or_default();
        format!("{mark}{}: {}{remedy}", self.subject, self.found)
    }
}

/// A configuration that needs all variables.
const NEEDS_ALL: &[u8] =
    br#"{ "destinations": [ { "hosts": ["api.example.com"], "scope": "api://any/.default", "tls_clusters": ["any"] } ] }"#;

/// Judges the environment variables as the filter does when it loads its configuration.
pub fn variables(variable: &dyn Fn(&str) -> Option<String>) -> Vec<Line> {
    let problems = Config::parse(NEEDS_ALL, variable).map(|config| config.warnings).unwrap_or_default();
    if problems.is_empty() {
        let authority = variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| "not set, so the public cloud".to_owned());
        let found = format!("tenant and client are set; AZURE_AUTHORITY_HOST is {}", shown(&authority));
        return vec![Line::good("variables", found)];
    }
    let line = |warning: &String| {
        let (found, remedy) = warning.split_once(". ").unwrap_or((warning, "Correct the variable."));
        Line::bad("variables", found, remedy)
    };
    problems.iter().map(line).collect()
}

/// Judges the content of the token file. `now` is in seconds since 1970.
pub fn token_file(path: &str, content: Result<Vec<u8>, String>, now: u64) -> Line {
    const SUBJECT: &str = "federated token";
    let content = match content {
        Ok(content) => content,
        Err(reason) => {
            let remedy = "Mount the volume with the projected token into this container, and set AZURE_FEDERATED_TOKEN_FILE to its path.";
            return Line::bad(SUBJECT, format!("{path} {reason}"), remedy);
        }
    };
    let text = String::from_utf8_lossy(&content);
    match token::inspect(&text, now) {
        Err(reason) => {
            let remedy = "Check the program that writes the file: the content must be one JWT and nothing else.";
            Line::bad(SUBJECT, format!("{path} {reason}"), remedy)
        }
        Ok(token::Inspected { problem: Some(problem), .. }) => Line::bad(SUBJECT, problem.detail, problem.remedy),
        Ok(token::Inspected { credential: Some(credential), claims, .. }) => {
            let expiry = claims.get("exp").and_then(serde_json::Value::as_u64).unwrap_or_default();
            let left = crate::times::distance(expiry, now);
            let (issuer, subject) = (shown(&credential.issuer), shown(&credential.subject));
            Line::good(SUBJECT, format!("{path} expires {left}; issuer {issuer}, subject {subject}"))
        }
        Ok(_) => Line::good(SUBJECT, path),
    }
}

fn shown(text: &str) -> String {
    UntrustedText::new(text).as_str().to_owned()
}

/// Judges Envoy's clusters for the authority, from `/clusters` and `/stats` of its administration interface.
pub fn clusters(names: &[String], clusters: &str, stats: &str) -> Vec<Line> {
    let values = counters(stats);
    names.iter().map(|name| cluster(name, clusters, &values)).collect()
}

/// The counters and gauges of `/stats`, which has one `name: value` a line.
fn counters(stats: &str) -> BTreeMap<&str, u64> {
    stats
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

fn cluster(name: &str, clusters: &str, values: &BTreeMap<&str, u64>) -> Line {
    let subject = format!("cluster {name}");
    let prefix = format!("{name}::");
    let lines: Vec<&str> = clusters.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    if lines.is_empty() {
        let remedy = "Define the cluster in Envoy, or correct entra.clusters.";
        return Line::bad(subject, "Envoy does not have this cluster", remedy);
    }
    // A line about an endpoint is `address::name::value`.
    let of_endpoints = |field: &str| -> Vec<(&str, &str)> {
        let parts = lines.iter().filter_map(|line| line.split_once("::"));
        parts.filter_map(|(address, rest)| Some((address, rest.strip_prefix(field)?.strip_prefix("::")?))).collect()
    };
    let endpoints = of_endpoints("cx_total");
    if endpoints.is_empty() {
        let remedy = "Check the DNS of the pod: the name of the authority does not resolve.";
        return Line::bad(subject, "it has no endpoint", remedy);
    }
    let value = |suffix: &str| values.get(format!("cluster.{name}.{suffix}").as_str()).copied().unwrap_or_default();
    let total =
        |field: &str| of_endpoints(field).iter().filter_map(|(_, value)| value.parse::<u64>().ok()).sum::<u64>();
    let (connections, failed) = (total("cx_total"), total("cx_connect_fail"));
    let answered = value("upstream_rq_completed").max(total("rq_success"));
    let causes = [
        (
            "ssl.fail_verify_san",
            "the server's certificate is for another name",
            "Check what is between Envoy and Entra, and the name in match_typed_subject_alt_names.",
        ),
        (
            "ssl.fail_verify_error",
            "the server's CA is not trusted",
            "Check for a proxy that inspects TLS, and trusted_ca.",
        ),
        (
            "upstream_rq_timeout",
            "connected, but no response within limits.exchange",
            "Check the network between Envoy and Entra: a proxy or firewall holds the requests.",
        ),
    ];
    for (counter, found, remedy) in causes {
        if value(counter) > 0 && answered == 0 {
            return Line::bad(subject, format!("{found} ({} times)", value(counter)), remedy);
        }
    }
    if failed > 0 && answered == 0 {
        let remedy = "Check firewall and routes to port 443 of the authority.";
        return Line::bad(subject, format!("{failed} of {connections} connections failed"), remedy);
    }
    let addresses: Vec<&str> = endpoints.iter().map(|(address, _)| *address).collect();
    let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    Line::good(subject, format!("{connections} connections{failures}, {answered} answers; {}", addresses.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_variables_are_named_with_their_remedy() {
        let lines = variables(&|_| None);
        assert!(lines.len() == 1 && !lines[0].good);
        assert!(lines[0].found.contains("AZURE_TENANT_ID") && lines[0].found.contains("AZURE_CLIENT_ID"), "{lines:?}");
        let set = |name: &str| match name {
            "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
            "AZURE_CLIENT_ID" => Some("aaaaaaaa-0000-4000-8000-000000000001".to_owned()),
            _ => None,
        };
        assert!(variables(&set)[0].good);
    }

    #[test]
    fn a_token_file_that_cannot_be_read_or_used_is_named() {
        assert!(!token_file("/f", Err("does not exist".to_owned()), 0).good);
        assert!(token_file("/f", Ok(b"hello".to_vec()), 0).found.contains("is not a JWT"));
    }

    const CLUSTERS: &str = "entra::default_priority::max_connections::1024\nentra::20.1.2.3:443::cx_connect_fail::0\n\
        entra::20.1.2.3:443::cx_total::4\nentra::20.1.2.3:443::rq_success::3\nempty::default_priority::max_connections::1024\n";

    fn judged(name: &str, clusters_text: &str, stats: &str) -> (bool, String) {
        let lines = clusters(&[name.to_owned()], clusters_text, stats);
        (lines[0].good, lines[0].found.clone())
    }

    #[test]
    fn clusters_are_judged_by_their_connections_and_counters() {
        assert_eq!(judged("entra", CLUSTERS, ""), (true, "4 connections, 3 answers; 20.1.2.3:443".to_owned()));
        assert!(!judged("other", CLUSTERS, "").0);
        assert_eq!(judged("empty", CLUSTERS, ""), (false, "it has no endpoint".to_owned()));
        let failing =
            CLUSTERS.replace("cx_connect_fail::0", "cx_connect_fail::4").replace("rq_success::3", "rq_success::0");
        assert_eq!(judged("entra", &failing, ""), (false, "4 of 4 connections failed".to_owned()));
        let san = "cluster.entra.ssl.fail_verify_san: 4\n";
        assert!(judged("entra", &failing, san).1.contains("another name"));
    }
}
