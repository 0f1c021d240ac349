//! Compares the choice of the destination with that of a simple matcher, which checks every rule for each request.

use std::collections::HashSet;

use entra_exchange_core::config::Config;
use entra_exchange_core::decision::{Decision, Match};
use entra_exchange_core::policy::Policy;
use entra_exchange_core::request::{DescribedRequest, RequestView};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A destination. Its index in the list is its scope.
#[derive(Clone, Debug)]
struct Rule {
    host: &'static str,
    port: Option<u16>,
    /// The segments of the path prefix; an empty list matches any path.
    prefix: Vec<&'static str>,
    /// The methods; an empty list matches any method.
    methods: Vec<&'static str>,
}

impl Rule {
    /// The keys of the rule. Two rules with a common key are ambiguous.
    fn keys(&self) -> Vec<String> {
        let methods = if self.methods.is_empty() { vec![""] } else { self.methods.clone() };
        methods.iter().map(|method| format!("{} {:?} {:?} {method}", self.host, self.port, self.prefix)).collect()
    }

    fn to_json(&self, index: usize) -> Value {
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        let mut rule = json!({"hosts": [format!("{}{port}", self.host)], "scope": format!("{index}/.default")});
        if !self.prefix.is_empty() {
            rule["path_prefixes"] = json!([format!("/{}", self.prefix.join("/"))]);
        }
        if !self.methods.is_empty() {
            rule["methods"] = json!(self.methods);
        }
        rule
    }

    fn is_for_host(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let named = match self.host.strip_prefix('*') {
            Some(suffix) => host.strip_suffix(suffix).is_some_and(is_label),
            None => host == self.host,
        };
        named && self.port.is_none_or(|own| own == port)
    }

    fn is_for(&self, method: &str, segments: &[&str]) -> bool {
        let plain: Vec<String> = segments.iter().map(|it| it.replace("%76", "v").replace("%73", "s")).collect();
        plain.starts_with(&self.prefix.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
            && (self.methods.is_empty() || self.methods.contains(&method))
    }

    /// The specificity of the host.
    fn tier(&self) -> (bool, bool) {
        (!self.host.starts_with('*'), self.port.is_some())
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[derive(Clone, Debug)]
struct SentRequest {
    host: &'static str,
    port: Option<u16>,
    segments: Vec<&'static str>,
    query: &'static str,
    method: &'static str,
}

impl SentRequest {
    fn path(&self) -> String {
        format!("/{}{}", self.segments.join("/"), self.query)
    }

    fn described(&self) -> DescribedRequest {
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        DescribedRequest::new(self.method, &format!("{}{port}", self.host), &self.path())
    }

    /// Whether a server could interpret the path as another one. An empty segment at the end is only a trailing slash.
    fn is_ambiguous(&self) -> bool {
        let (last, others) = self.segments.split_last().unwrap();
        let odd = |segment: &&str| AMBIGUOUS.contains(segment);
        others.iter().any(|segment| segment.is_empty() || odd(segment)) || odd(last)
    }
}

const AMBIGUOUS: &[&str] = &[
    ".",
    "..",
    "..;x",
    "%2E%2e",
    "v1%2fusers",
    "a\\b",
    "%",
    "%5c",
    "...",
    "users;x",
    "v1%3b",
    "v1%20",
    "%2576",
    "%c0%af",
];
const PLAIN: &[&str] = &["v1", "users", "v10", "V1", "", "a%20b", "caf\u{e9}", "%761", "user%73", "v1%2B"];

fn rule() -> impl Strategy<Value = Rule> {
    let host = prop::sample::select(&["a.example", "b.example", "*.example", "a.b.example", "*.b.example"][..]);
    let port = prop::sample::select(&[None, Some(80), Some(8443)][..]);
    let prefix = prop::collection::vec(prop::sample::select(&["v1", "users", "v10"][..]), 0..4);
    let methods = prop::sample::subsequence(&["GET", "PUT", "HEAD"][..], 0..3);
    (host, port, prefix, methods).prop_map(|(host, port, prefix, methods)| Rule { host, port, prefix, methods })
}

fn request() -> impl Strategy<Value = SentRequest> {
    let hosts: &[&str] = &[
        "a.example",
        "A.Example",
        "b.example",
        "c.example",
        "a.b.example",
        "z.b.example",
        "z.a.b.example",
        "example",
        "a.example.",
        "xa.example",
        ".example",
        "a.example@b.example",
        "b.example,a.example",
        "*.example",
        "[::1]",
    ];
    let segment = prop_oneof![6 => prop::sample::select(PLAIN), 1 => prop::sample::select(AMBIGUOUS)];
    let port = prop::sample::select(&[None, Some(80), Some(8443), Some(1)][..]);
    let query = prop::sample::select(&["", "?a=b", "?../v1//%2e"][..]);
    let method = prop::sample::select(&["GET", "PUT", "POST", "get"][..]);
    (prop::sample::select(hosts), port, prop::collection::vec(segment, 1..5), query, method)
        .prop_map(|(host, port, segments, query, method)| SentRequest { host, port, segments, query, method })
}

/// The expected result.
fn expected(rules: &[Rule], request: &SentRequest) -> String {
    let port = request.port.unwrap_or(80);
    let mut tiers: Vec<(bool, bool)> = rules.iter().map(Rule::tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    for tier in tiers.into_iter().rev() {
        let there: Vec<(usize, &Rule)> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.tier() == tier && rule.is_for_host(request.host, port))
            .collect();
        if request.is_ambiguous() && there.iter().any(|(_, rule)| !rule.prefix.is_empty()) {
            return "ambiguous".to_owned();
        }
        let decides = |method: &str| {
            let matching = there.iter().filter(|(_, rule)| rule.is_for(method, &request.segments));
            matching.max_by_key(|(_, rule)| (rule.prefix.len(), !rule.methods.is_empty())).map(|(index, _)| *index)
        };
        // A server may treat `get` as GET, or as another method.
        match (decides(request.method), decides(&request.method.to_ascii_uppercase())) {
            (one, other) if one != other => return "ambiguous".to_owned(),
            (Some(index), _) => return format!("{index}/.default"),
            (None, _) => {}
        }
    }
    "untouched".to_owned()
}

/// Checks that an explanation names the rule that decides, and calls no other rule the first that matches.
fn check_explanation(policy: &Policy, request: &SentRequest) {
    let described = request.described();
    let decision = policy.decide(&RequestView::new(&described));
    let explanation = policy.explain(&RequestView::new(&described));
    assert_eq!(explanation.decision.decided_by(), decision.decided_by());
    let matching =
        explanation.candidates.iter().filter(|it| matches!(it.outcome, Match::Applies | Match::LessSpecific));
    let first = matching.map(|it| (it.config_path, it.outcome)).next();
    match decision {
        Decision::Exchange(..) => {
            assert_eq!(first, Some((decision.decided_by().unwrap(), Match::Applies)), "{explanation:?}")
        }
        Decision::Ignore => assert_eq!(first, None, "{explanation:?}"),
        _ => assert!(explanation.candidates.iter().all(|it| it.outcome != Match::Applies), "{explanation:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn the_most_specific_destination_decides(
        rules in prop::collection::vec(rule(), 1..12), requests in prop::collection::vec(request(), 1..20),
    ) {
        let mut taken = HashSet::new();
        let mut distinct = Vec::new();
        for rule in rules {
            if rule.keys().iter().all(|key| !taken.contains(key)) {
                taken.extend(rule.keys());
                distinct.push(rule);
            }
        }
        let destinations: Vec<Value> = distinct.iter().enumerate().map(|(index, rule)| rule.to_json(index)).collect();
        let text = json!({
            "identities": [{
                "tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001",
            }],
            "defaults": {"plaintext": "allow", "shared_suffix": "allow"},
            "destinations": destinations,
        });
        let config = Config::parse(text.to_string().as_bytes(), &|_| None).unwrap();
        let policy = Policy::new(&config, false);
        for request in &requests {
            check_explanation(&policy, request);
            let actual = match policy.decide(&RequestView::new(&request.described())) {
                Decision::Exchange(spec, _) => spec.scope().to_owned(),
                Decision::Refuse(refusal) if refusal.reply().status == 400 => "ambiguous".to_owned(),
                Decision::Ignore => "untouched".to_owned(),
                other => format!("{other:?}"),
            };
            prop_assert_eq!(&actual, &expected(&distinct, request), "{:?} among {:?}", request, distinct);
        }
    }

    #[test]
    fn ambiguous_rules_are_rejected(rules in prop::collection::vec(rule(), 2..12)) {
        let mut taken = HashSet::new();
        let ties = !rules.iter().flat_map(Rule::keys).all(|key| taken.insert(key));
        let destinations: Vec<Value> = rules.iter().enumerate().map(|(index, rule)| rule.to_json(index)).collect();
        let text = json!({
            "defaults": {"plaintext": "allow", "shared_suffix": "allow"}, "destinations": destinations,
        });
        prop_assert_eq!(Config::parse(text.to_string().as_bytes(), &|_| None).is_err(), ties);
    }
}
