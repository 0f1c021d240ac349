//! `explain`: how the filter would handle a request, which rule decides, and why the others do not.
//!
//! The decision is that of [`Policy`], which the filter itself runs; this module only describes it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use entra_exchange_core::azure::HeaderForm;
use entra_exchange_core::broker::Limits;
use entra_exchange_core::config::{Config, DestinationSummary};
use entra_exchange_core::decision::{Candidate, ConfigPath, Decision, Delivery, Explanation, Match};
use entra_exchange_core::entra::TokenSpec;
use entra_exchange_core::policy::Policy;
use entra_exchange_core::problem::{Code, Problem};
use entra_exchange_core::request::{DescribedRequest, RequestView};
use serde::Serialize;

use crate::check::{Options, check};
use crate::finding::{self, Findings, Severity};
use crate::inventory::Inventory;
use crate::source::Source;
use crate::source_calls::{self, SourceCall};
use crate::{check as rules, document};

/// A request, as it is asked about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The method.
    pub method: String,
    /// The URL as the application calls it: `http://host/path?query`.
    pub url: String,
    /// Headers, with names in any case.
    pub headers: Vec<(String, String)>,
    /// The cluster to which Envoy routes the request. `None` assumes that the route is right.
    pub cluster: Option<String>,
    /// The URI in the caller's certificate.
    pub caller: Option<String>,
    /// The connection to the service, if the filter is an upstream HTTP filter: whether it uses TLS.
    pub connection_tls: Option<bool>,
    /// The address that the client connected to.
    pub address: Option<SocketAddr>,
    /// Whether the proxy is a gateway of Istio.
    pub on_gateway: bool,
}

impl Question {
    /// A token request to IMDS with these parameters, such as `resource=https://vault.azure.net`. `api-version` is added if it is
    /// missing.
    pub fn managed_identity(parameters: &str) -> Self {
        let parameters = parameters.trim_start_matches('?');
        let version =
            if parameters.to_ascii_lowercase().contains("api-version=") { "" } else { "api-version=2018-02-01&" };
        Self {
            method: "GET".to_owned(),
            url: format!("http://169.254.169.254/metadata/identity/oauth2/token?{version}{parameters}"),
            headers: vec![("metadata".to_owned(), "true".to_owned())],
            address: Some(SocketAddr::from(([169, 254, 169, 254], 80))),
            ..Self::default()
        }
    }
}

/// How a request is handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `inject`, `answer`, `pass`, `keep`, `refuse`, `report`, `unchanged`, `health` or `status`.
    pub outcome: &'static str,
    /// The part of the configuration that decides; `None` if no part applies.
    pub decided_by: Option<String>,
    /// The identity whose token is used.
    pub identity: Option<String>,
    /// The exchange that fetches the token, if it is not cached.
    pub exchange: Option<Exchange>,
    /// What the request is forwarded with.
    pub sends: Option<Sends>,
    /// Why the request gets no token.
    pub problem: Option<Reason>,
    /// The cluster that was assumed, because the question names none.
    pub assumed_cluster: Option<String>,
    /// The environment variables whose values are not known: the exchange shows placeholders for them.
    pub placeholders: Vec<String>,
    /// Every rule for the host, in order of precedence.
    pub rules: Vec<Rule>,
}

/// An exchange: the federated token is read, and sent to the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// The calls that get the federated token, in order. The token of each is part of the next one's request.
    pub source_calls: Vec<SourceCall>,
    /// The clusters for the token endpoint, in order.
    pub clusters: Vec<String>,
    /// The URL of the token endpoint.
    pub url: String,
    /// The client id.
    pub client_id: String,
    /// The scope.
    pub scope: String,
    /// Whether the configuration names the scope. Others have a budget.
    pub listed: bool,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// How long an exchange may take, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// The timeout of the call to each of the token endpoint's clusters.
    pub calls: Vec<u64>,
    /// How long a request waits for the token (`limits.wait`).
    pub wait: u64,
}

/// What a request is forwarded with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sends {
    /// The header with the token.
    pub header: String,
    /// The form of its value.
    pub value: &'static str,
    /// Headers that are removed.
    pub removes: Vec<String>,
    /// Whether the request is forwarded without the token if none is available.
    pub passes_without_token: bool,
}

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The code.
    pub code: &'static str,
    /// The status of the reply.
    pub status: u16,
    /// What was found.
    pub detail: String,
    /// An instruction.
    pub remedy: String,
}

/// A rule for the request's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its place in the configuration.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its action.
    pub action: &'static str,
    /// Its conditions, such as `GET /v1.0/users`.
    pub conditions: String,
    /// Whether it applies.
    pub applies: bool,
    /// Why it applies, or not.
    pub why: &'static str,
}

/// Explains how the filter handles a request with the configuration in the sources.
///
/// # Errors
/// If the sources do not contain one valid configuration, or the URL is not one: a sentence.
pub fn explain(sources: &[Source], variables: &[(String, String)], question: &Question) -> Result<Explained, String> {
    let options = Options { variables: variables.to_vec(), ..Options::default() };
    let mistakes = check(sources, &options).count(Severity::Error);
    if mistakes > 0 {
        return Err(format!("the configuration has {}", finding::correct(mistakes)));
    }
    let documents = document::read(sources, &mut Findings::default());
    let inventory = Inventory::of(sources, &documents);
    let [configuration] = inventory.configurations.as_slice() else {
        let count = inventory.configurations.len();
        return Err(format!("the files contain {count} configurations of the filter: give the files of one"));
    };
    let environment = rules::environment::of(&inventory, &options);
    let unknown = RefCell::new(Vec::new());
    let variable = |name: &str| {
        let value = environment.assumed(name);
        if environment.known(name).is_none() {
            unknown.borrow_mut().extend(value.clone().map(|value| (name.to_owned(), value)));
        }
        value
    };
    let config = Config::parse(configuration.text.as_bytes(), &variable).map_err(|refused| refused.to_string())?;
    let mut explained = of(&config, question)?;
    if let Some(exchange) = &explained.exchange {
        for (name, value) in unknown.into_inner() {
            if exchange.shows(&value) && !explained.placeholders.contains(&name) {
                explained.placeholders.push(name);
            }
        }
    }
    Ok(explained)
}

/// Explains how the filter handles a request with a configuration.
///
/// # Errors
/// If the URL is not one: a sentence.
pub fn of(config: &Config, question: &Question) -> Result<Explained, String> {
    let policy = Policy::new(config, question.on_gateway);
    let mut request = described(question)?;
    let explanation = policy.explain(&RequestView::new(&request));
    let explained = describe(config, &explanation);
    // Without a cluster in the question, the route is assumed to be right.
    let depends_on_route = explained.problem.as_ref().is_some_and(|reason| {
        [Code::ClusterNotListed.as_str(), Code::TlsClustersMissing.as_str()].contains(&reason.code)
    });
    let may_assume = question.cluster.is_none() && question.connection_tls.is_none() && depends_on_route;
    let Some(cluster) = assumed_cluster(config, &explanation, question).filter(|_| may_assume) else {
        return Ok(explained);
    };
    request.cluster_name = Some(cluster.clone());
    let explanation = policy.explain(&RequestView::new(&request));
    Ok(Explained { assumed_cluster: Some(cluster), ..describe(config, &explanation) })
}

/// The request of a question.
///
/// # Errors
/// If the URL is not one.
pub fn described(question: &Question) -> Result<DescribedRequest, String> {
    let (authority, target) = parts(&question.url)?;
    let mut request = DescribedRequest::new(&question.method, authority, target);
    for (name, value) in &question.headers {
        request = request.with_header(&name.to_ascii_lowercase(), value.as_bytes());
    }
    request.cluster_name.clone_from(&question.cluster);
    request.peer_uri.clone_from(&question.caller);
    request.destination_address = question.address;
    if question.connection_tls.is_some() {
        request.attempt = Some(1);
        request.upstream_tls = question.connection_tls;
    }
    Ok(request)
}

/// The authority and the target of a URL. A fragment is not sent.
fn parts(url: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = url.strip_prefix("https://") {
        return Err(format!(
            "{url:?}: Envoy cannot read a request that the application encrypts, so it bypasses the filter: let the application call \
             http://{rest}, and give this URL"
        ));
    }
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let rest = rest.split('#').next().unwrap_or(rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.is_empty() || url.contains(char::is_whitespace) {
        return Err(format!("{url:?} is not a URL: write http://host/path"));
    }
    // A target has a path, which is "/" if the URL has none (RFC 9110, section 4.2.3).
    if target.starts_with('?') {
        return Err(format!("{url:?} has no path before the query: write http://{authority}/{target}"));
    }
    Ok((authority, if target.is_empty() { "/" } else { target }))
}

fn destination_of(config: &Config, path: ConfigPath) -> Option<DestinationSummary<'_>> {
    config.destinations().find(|destination| destination.config_path() == path)
}

/// The first of the destination's clusters, for the request's host.
fn assumed_cluster(config: &Config, explanation: &Explanation, question: &Question) -> Option<String> {
    let destination = destination_of(config, explanation.decision.decided_by()?)?;
    let first = destination.tls_clusters().first()?;
    let (authority, _) = parts(&question.url).ok()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_ascii_lowercase();
    // For a wildcard the name has the wildcard.
    let own =
        destination.hosts().find(|own| own.starts_with("*.") && own.get(1..).is_some_and(|end| host.ends_with(end)));
    let exact = destination.hosts().any(|own| own.split(':').next() == Some(&host));
    let name = own.filter(|_| !exact).map_or(host.clone(), |own| own.split(':').next().unwrap_or(&own).to_owned());
    Some(first.replace("{host}", &name))
}

fn describe(config: &Config, explanation: &Explanation) -> Explained {
    let decision = &explanation.decision;
    let problem = decision.problem().map(|problem| reason(decision, problem));
    let (spec, delivery) = match decision {
        Decision::Exchange(spec, delivery) | Decision::AwaitConnection(spec, delivery) => {
            (Some(&**spec), Some(delivery))
        }
        Decision::Report(report) | Decision::ReportToNode(report) => (report.spec.as_deref(), None),
        _ => (None, None),
    };
    let identity = match decision {
        Decision::Pass(passed) => passed.identity.as_deref().map(str::to_owned),
        Decision::Keep(kept) => Some(kept.identity.to_string()),
        Decision::Report(report) | Decision::ReportToNode(report) => report.identity.as_deref().map(str::to_owned),
        Decision::Refuse(refusal) => refusal.problem.identity.clone(),
        _ => spec.map(|spec| spec.identity().to_owned()),
    };
    let rule = |candidate: &Candidate| rule(config, candidate);
    Explained {
        outcome: outcome(decision),
        decided_by: decision.decided_by().map(|path| path.to_string()),
        identity,
        exchange: spec.map(|spec| exchange(spec, &config.limits)),
        sends: delivery.and_then(sends),
        problem,
        assumed_cluster: None,
        placeholders: Vec::new(),
        rules: explanation.candidates.iter().map(rule).collect(),
    }
}

const fn outcome(decision: &Decision) -> &'static str {
    match decision {
        Decision::Ignore => "unchanged",
        Decision::Pass(_) => "pass",
        Decision::Keep(_) => "keep",
        Decision::Refuse(_) | Decision::RefuseOwn(_) => "refuse",
        Decision::Exchange(_, Delivery::Inject(_)) | Decision::AwaitConnection(_, Delivery::Inject(_)) => "inject",
        Decision::Exchange(..) | Decision::AwaitConnection(..) => "answer",
        Decision::Report(_) | Decision::ReportToNode(_) => "report",
        Decision::Live | Decision::Check(_) => "health",
        Decision::Status(_) => "status",
    }
}

fn reason(decision: &Decision, problem: &Problem) -> Reason {
    let status = match decision {
        Decision::Refuse(refusal) => refusal.reply().status,
        _ => problem.code.status(),
    };
    let (detail, remedy) = (problem.detail.to_string(), problem.remedy.to_string());
    Reason { code: problem.code.as_str(), status, detail, remedy }
}

fn exchange(spec: &TokenSpec, limits: &Limits) -> Exchange {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let count = spec.clusters().len();
    let calls = (0..count).map(|index| milliseconds(limits.call_timeout(index, count))).collect();
    Exchange {
        source_calls: source_calls::of(spec.assertion()),
        clusters: spec.clusters().to_vec(),
        url: format!("https://{}/{}/oauth2/v2.0/token", spec.authority().host(), spec.tenant_id()),
        client_id: spec.client_id().to_owned(),
        scope: spec.scope().to_owned(),
        listed: spec.is_listed(),
        timeouts: Timeouts { calls, wait: milliseconds(limits.wait) },
    }
}

fn sends(delivery: &Delivery) -> Option<Sends> {
    let Delivery::Inject(injection) = delivery else { return None };
    let value = match injection.form {
        None => "<token>",
        Some(HeaderForm::Bearer) => "Bearer <token>",
        Some(HeaderForm::CosmosDb) => "type%3Daad%26ver%3D1.0%26sig%3D<token>",
    };
    Some(Sends {
        header: injection.header.to_string(),
        value,
        removes: injection.in_place_of.iter().map(|name| name.as_ref().to_owned()).collect(),
        passes_without_token: injection.pass_on_failure,
    })
}

fn rule(config: &Config, candidate: &Candidate) -> Rule {
    let mut conditions = candidate.method.clone().unwrap_or_else(|| "any method".to_owned());
    let path = if candidate.path_prefix.is_empty() { "any path" } else { &candidate.path_prefix };
    // Writing to a string does not fail.
    let _ = write!(conditions, ", {path}");
    if let Some(port) = candidate.port {
        let _ = write!(conditions, ", port {port}");
    }
    if candidate.wildcard {
        conditions.push_str(", by its wildcard");
    }
    Rule {
        path: candidate.config_path.to_string(),
        name: candidate.label.clone(),
        action: destination_of(config, candidate.config_path).map_or("", DestinationSummary::action),
        conditions,
        applies: candidate.outcome == Match::Applies,
        why: match candidate.outcome {
            Match::Applies => "applies: it is the most specific rule that matches",
            Match::LessSpecific => "matches, but a more specific rule applies or the request is ambiguous",
            Match::OtherPort => "does not match: another port",
            Match::OtherPath => "does not match: another path",
            Match::OtherMethod => "does not match: another method",
        },
    }
}

impl Exchange {
    /// Whether the exchange contains this value of an environment variable: a tenant, a client, or the URL of a source.
    fn shows(&self, value: &str) -> bool {
        let url = |call: &SourceCall| format!("https://{}{}", call.authority, call.path);
        self.client_id == value
            || self.url.split('/').any(|part| part == value)
            || self.source_calls.iter().any(|call| url(call).starts_with(value))
    }
}

impl Explained {
    /// Whether the request is handled without a problem.
    pub const fn is_good(&self) -> bool {
        self.problem.is_none()
    }

    /// The explanation for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.sentence());
        let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<12}  {value}\n"));
        if let Some(path) = &self.decided_by {
            line("decided by", path);
        }
        if let Some(identity) = &self.identity {
            line("identity", identity);
        }
        if let Some(cluster) = &self.assumed_cluster {
            line("route", &format!("assumed: cluster {cluster}"));
        }
        if let Some(Exchange { source_calls, clusters, url, client_id, scope, listed, .. }) = &self.exchange {
            line("scope", scope);
            for (index, call) in source_calls::lines(source_calls).iter().enumerate() {
                line(if index == 0 { "exchange" } else { "" }, call);
            }
            line("", &format!("POST {url} through cluster {}, with the federated token", clusters.join(", then ")));
            line("", &format!("client_id {client_id}, scope {scope}"));
            if !listed {
                line("", "the configuration does not name this scope: managed_identity.limits applies");
            }
        }
        if !self.placeholders.is_empty() {
            line("placeholders", &format!("for {}: --env sets their values", self.placeholders.join(", ")));
        }
        if let Some(Sends { header, value, removes, passes_without_token }) = &self.sends {
            line("sends", &format!("{header}: {value}"));
            if !removes.is_empty() {
                line("removes", &removes.join(", "));
            }
            if *passes_without_token {
                line("", "without a token, it is forwarded unchanged (on_failure: pass)");
            }
        }
        if let Some(Reason { code, status, detail, remedy }) = &self.problem {
            line("code", &format!("{status} {code}"));
            line("cause", detail);
            line("remedy", remedy);
        }
        if !self.rules.is_empty() {
            text.push_str("\nrules for the host, the most specific first:\n");
        }
        for Rule { path, name, action, conditions, applies, why } in &self.rules {
            let mark = if *applies { "*" } else { " " };
            let _ = writeln!(text, "{mark} {path} ({name}), {action}: {conditions}\n    {why}");
        }
        text
    }

    fn sentence(&self) -> &'static str {
        match self.outcome {
            "inject" => "The request is forwarded with an access token.",
            "answer" => "The filter answers the request with an access token.",
            "pass" => "The request is forwarded unchanged, because the rule passes it.",
            "keep" => "The request is forwarded unchanged, because it already carries a credential.",
            "refuse" => "The request is rejected.",
            "report" => "The request is forwarded unchanged, and the filter reports how it would have been handled.",
            "health" => "The filter answers the health check.",
            "status" => "The filter answers with its status page.",
            _ => "The request is forwarded unchanged: no part of the configuration applies to it.",
        }
    }
}
