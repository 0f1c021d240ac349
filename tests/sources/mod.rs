//! The scenarios of federated-token sources over HTTP, each with a strict fake of its service.

mod platforms;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fake_entra::{Directory, Issuer};
use fake_http::{Request, Response};
use fake_sources::{
    AzurePipelines, Client, ClientAuth, ConnectionIssuer, Delivery, Fault, GitHub, Google, GrantType, JsonService,
    Source, Stats, SubjectForm, TokenEndpoint, TokenFault, Vault,
};
use serde_json::{Value, json};
use stack::{AUDIENCE, CLIENT_ID, LISTED_HOST, SUBJECT, TENANT_ID};

use crate::scenarios::{TestHost, get, problem, seen_token};

/// The cluster that leads to the source.
pub(crate) const CLUSTER: &str = "source";

/// An example test of a source.
pub(crate) struct SourceScenario {
    /// A sentence that the test proves.
    pub(crate) name: &'static str,
    /// The source. The issuer is that of the projected tokens.
    pub(crate) source: fn(&Issuer) -> FakeSource,
    /// Panics if the sentence is not true.
    pub(crate) run: fn(&dyn TestHost, &FakeSource),
}

type Answer = dyn Fn(&Request, SystemTime) -> Response + Send + Sync;
type Register = dyn Fn(&Directory) -> Result<(), String> + Send + Sync;

/// A fake of any kind, with what the filter needs to use it.
#[derive(Clone)]
pub(crate) struct FakeSource {
    answer: Arc<Answer>,
    register: Arc<Register>,
    add_faults: Arc<dyn Fn(Vec<Fault>) + Send + Sync>,
    stats: Arc<dyn Fn() -> Stats + Send + Sync>,
    /// The environment variables of the filter.
    pub(crate) variables: Vec<(String, String)>,
    /// The section `assertions`, whose first entry is used.
    pub(crate) assertions: Value,
    /// The audience of the projected token.
    pub(crate) projected_audience: String,
}

impl FakeSource {
    fn new(source: impl Source, variables: impl IntoIterator<Item = (String, String)>, assertion: Value) -> Self {
        let (answering, registering, faulty) = (source.clone(), source.clone(), source.clone());
        let mut assertions = json!([{"name": "federated", "cluster": CLUSTER}]);
        assertions[0].as_object_mut().unwrap().extend(assertion.as_object().unwrap().clone());
        Self {
            answer: Arc::new(move |request, now| answering.respond(request, now)),
            register: Arc::new(move |entra| registering.register(entra, TENANT_ID, CLIENT_ID)),
            add_faults: Arc::new(move |faults| faulty.add_faults(faults)),
            stats: Arc::new(move || source.stats()),
            variables: variables.into_iter().collect(),
            assertions,
            projected_audience: AUDIENCE.to_owned(),
        }
    }

    /// The response to a request that arrives at `now`.
    pub(crate) fn respond(&self, request: &Request, now: SystemTime) -> Response {
        (self.answer)(request, now)
    }

    /// Makes the fake Entra accept its tokens.
    pub(crate) fn register(&self, entra: &Directory) {
        (self.register)(entra).unwrap();
    }

    /// The filter's configuration.
    pub(crate) fn configuration(&self) -> Value {
        let mut configuration = crate::scenarios::destination(&json!({}));
        configuration["assertions"] = self.assertions.clone();
        configuration["identities"] = json!([{"assertion": "federated"}]);
        configuration
    }

    /// Checks that a log contains no secret of the source.
    pub(crate) fn assert_hidden(&self, log: &str) {
        for (name, secret) in
            self.variables.iter().filter(|(name, _)| !name.contains("REQUEST_URL") && !name.ends_with("URI"))
        {
            assert!(!log.contains(secret), "{name} in the log:\n{log}");
        }
    }

    fn stats(&self) -> Stats {
        (self.stats)()
    }

    /// Adds a response that is wrong in this way.
    fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        (self.add_faults)(faults.into_iter().collect());
    }
}

fn github(_: &Issuer) -> FakeSource {
    let github = GitHub::new();
    let variables = github.variables(GitHub::HOST);
    FakeSource::new(github, variables, json!({"source": "github_actions"}))
}

fn github_by_names(_: &Issuer) -> FakeSource {
    let github = GitHub::new().with_subject_form(SubjectForm::Names);
    let variables = github.variables(GitHub::HOST);
    FakeSource::new(github, variables, json!({"source": "github_actions"}))
}

fn azure_pipelines(issuer: ConnectionIssuer) -> FakeSource {
    let azure = AzurePipelines::new(issuer);
    let (variables, connection) = (azure.variables(AzurePipelines::HOST), azure.connection());
    FakeSource::new(azure, variables, json!({"source": "azure_pipelines", "service_connection_id": connection}))
}

fn google(_: &Issuer) -> FakeSource {
    FakeSource::new(Google::new(), [], json!({"source": "google_metadata"}))
}

/// A Vault whose token the cluster adds, which the general form stands for here: the hosts of these tests have no cluster with filters.
fn vault(_: &Issuer) -> FakeSource {
    let vault = Vault::new();
    let variables = [("VAULT_TOKEN".to_owned(), vault.token())];
    let request =
        json!({"path": "/v1/identity/oidc/token/payments", "headers_from_env": {"X-Vault-Token": "VAULT_TOKEN"}});
    let response = json!({"token": "/data/token", "expiry": {"seconds": "/data/ttl"}});
    FakeSource::new(
        vault,
        variables,
        json!({"source": "http", "request": request, "response": response, "not_ready": [403]}),
    )
}

fn token_endpoint(grant: GrantType, auth: ClientAuth, assertion: Value) -> FakeSource {
    let endpoint = TokenEndpoint::new(grant, Client { id: "pay ments:1".to_owned(), auth });
    let mut fields = json!({"path": endpoint.target(), "authority": "sts.example"});
    fields.as_object_mut().unwrap().extend(assertion.as_object().unwrap().clone());
    FakeSource::new(endpoint, [("STS_SECRET".to_owned(), SECRET.to_owned())], fields)
}

/// It differs from its form-encoded form.
const SECRET: &str = "s3cret:/+%&=ü longer";

fn oidc(_: &Issuer) -> FakeSource {
    let client = json!({"id": "pay ments:1", "secret_from_env": "STS_SECRET"});
    let fields = json!({"source": "oidc_client_credentials", "basic_auth": client, "form": {"scope": "federation"}});
    token_endpoint(GrantType::ClientCredentials, ClientAuth::SecretBasic(SECRET.to_owned()), fields)
}

fn oidc_with_secret_in_form(_: &Issuer) -> FakeSource {
    let fields = json!({
        "source": "oidc_client_credentials", "form": {"client_id": "pay ments:1"}, "form_from_env": {"client_secret": "STS_SECRET"},
    });
    token_endpoint(GrantType::ClientCredentials, ClientAuth::SecretPost(SECRET.to_owned()), fields)
}

/// A client that authenticates with the projected token, which is for the token endpoint's issuer.
fn oidc_with_client_assertion(issuer: &Issuer) -> FakeSource {
    let auth = ClientAuth::Assertion { issuer: issuer.clone(), subject: SUBJECT.to_owned() };
    let fields = json!({
        "source": "oidc_client_credentials", "form": {"client_id": "pay ments:1"}, "client_assertion": "projected_token",
    });
    let source = token_endpoint(GrantType::ClientCredentials, auth, fields);
    FakeSource { projected_audience: TokenEndpoint::ISSUER.to_owned(), ..source }
}

fn token_exchange(issuer: &Issuer) -> FakeSource {
    let client = json!({"id": "pay ments:1", "secret_from_env": "STS_SECRET"});
    let fields = json!({"source": "token_exchange", "basic_auth": client, "subject_token": "projected_token"});
    token_endpoint(GrantType::TokenExchange(issuer.clone()), ClientAuth::SecretBasic(SECRET.to_owned()), fields)
}

fn json_service(_: &Issuer) -> FakeSource {
    let service = JsonService::new();
    let variables = [("API_KEY".to_owned(), service.api_key().to_owned())];
    let request = json!({
        "path": service.target(), "headers_from_env": {"X-Api-Key": "API_KEY"},
        "json": {"audience": AUDIENCE, "ttl_seconds": 600},
    });
    let response = json!({"token": "/result/jwt", "expiry": {"time": "/result/expires_at"}});
    FakeSource::new(service, variables, json!({"source": "http", "request": request, "response": response}))
}

/// The same, which gets one second for its answer, and one attempt.
fn impatient_json_service(issuer: &Issuer) -> FakeSource {
    let mut source = json_service(issuer);
    (source.assertions[0]["timeout"], source.assertions[0]["attempts"]) = (json!("1s"), json!(1));
    source
}

/// Sends two requests, which must get the workload's token with one call to the source.
fn gets_a_token(host: &dyn TestHost, source: &FakeSource) {
    assert_eq!(source.stats().requests, 0, "the source was asked before an exchange was due");
    for _ in 0..2 {
        assert_eq!(seen_token(&get(host, LISTED_HOST, "/"))["appid"], CLIENT_ID);
    }
    let stats = source.stats();
    assert_eq!((stats.requests, stats.issued, stats.rejected), (1, 1, Vec::new()));
}

/// Sends a request, which must be rejected with this code after one bad answer or several.
fn fails_with(host: &dyn TestHost, source: &FakeSource, fault: Fault, code: &str) -> Value {
    source.fail([fault.clone(), fault.clone(), fault]);
    let found = problem(&get(host, LISTED_HOST, "/"), 503, code);
    assert_eq!(host.entra().stats().token_requests, 0);
    found
}

/// The same, with this part of the problem's detail.
fn fails_because(host: &dyn TestHost, source: &FakeSource, fault: Fault, code: &str, cause: &str) {
    let found = fails_with(host, source, fault, code);
    assert!(found["detail"].as_str().unwrap().contains(cause), "{found}");
}

macro_rules! bad_answer {
    ($name:literal, $fault:expr, $code:literal, $cause:literal) => {
        SourceScenario {
            name: $name,
            source: github,
            run: |host, source| fails_because(host, source, $fault, $code, $cause),
        }
    };
}

/// All scenarios, with those of the platforms.
pub(crate) fn all() -> impl Iterator<Item = &'static SourceScenario> {
    ALL.iter().chain(platforms::ALL)
}

/// The scenarios of the sources that are not bound to a platform.
const ALL: &[SourceScenario] = &[
    SourceScenario { name: "a_github_actions_job_gets_the_workloads_token", source: github, run: gets_a_token },
    SourceScenario {
        name: "a_github_actions_job_of_an_older_repository_gets_the_workloads_token",
        source: github_by_names,
        run: gets_a_token,
    },
    SourceScenario {
        name: "an_azure_pipelines_job_gets_the_workloads_token",
        source: |_| azure_pipelines(ConnectionIssuer::AzureDevOps),
        run: gets_a_token,
    },
    SourceScenario { name: "a_google_instance_gets_the_workloads_token", source: google, run: gets_a_token },
    SourceScenario { name: "a_vault_token_gets_the_workloads_token", source: vault, run: gets_a_token },
    SourceScenario {
        name: "an_oidc_client_with_a_basic_secret_gets_the_workloads_token",
        source: oidc,
        run: gets_a_token,
    },
    SourceScenario {
        name: "an_oidc_client_with_a_secret_in_the_form_gets_the_workloads_token",
        source: oidc_with_secret_in_form,
        run: gets_a_token,
    },
    SourceScenario {
        name: "an_oidc_client_with_a_projected_token_instead_of_a_secret_gets_the_workloads_token",
        source: oidc_with_client_assertion,
        run: gets_a_token,
    },
    SourceScenario {
        name: "a_token_endpoint_that_rejects_the_projected_token_is_reported",
        source: |issuer| FakeSource { projected_audience: AUDIENCE.to_owned(), ..oidc_with_client_assertion(issuer) },
        run: |host, source| {
            problem(&get(host, LISTED_HOST, "/"), 503, "source_refused");
            assert_eq!((source.stats().issued, host.entra().stats().token_requests), (0, 0));
        },
    },
    SourceScenario {
        name: "a_projected_token_is_exchanged_for_one_that_gets_the_workloads_token",
        source: token_exchange,
        run: gets_a_token,
    },
    SourceScenario { name: "any_service_with_json_gets_the_workloads_token", source: json_service, run: gets_a_token },
    SourceScenario {
        name: "a_source_that_is_not_ready_busy_or_slow_is_asked_again",
        source: github,
        run: |host, source| {
            source.fail([GitHub::pending(), GitHub::unavailable()]);
            seen_token(&get(host, LISTED_HOST, "/"));
            assert_eq!(source.stats().requests, 3);
        },
    },
    SourceScenario {
        name: "a_source_is_asked_once_for_requests_that_arrive_together",
        source: github,
        run: |host, source| {
            source.fail([Fault::delay(Duration::from_millis(300))]);
            let answers = host.outbound(&vec![stack::Request::get(LISTED_HOST, "/"); 8]);
            answers.iter().for_each(|answer| drop(seen_token(answer)));
            assert_eq!(source.stats().requests, 1);
        },
    },
    SourceScenario {
        name: "a_source_that_fails_while_the_access_token_is_good_affects_no_request",
        source: github,
        run: |host, source| {
            let before = seen_token(&get(host, LISTED_HOST, "/"));
            source.fail(vec![Fault::status(503); 500]);
            // Entra dates a token five minutes back. It is due five minutes before its end at the latest.
            let lifetime = before["exp"].as_u64().unwrap() - before["iat"].as_u64().unwrap() - 300;
            host.advance(Duration::from_secs(lifetime - 200));
            assert!(source.stats().requests >= 4, "no exchange for the next token");
            for _ in 0..3 {
                assert_eq!(seen_token(&get(host, LISTED_HOST, "/")), before);
                host.advance(Duration::from_secs(1));
            }
            // The number of calls in three minutes at least, and ten at most, is bounded.
            assert!(source.stats().requests < 200);
        },
    },
    bad_answer!(
        "a_redirect_of_a_source_is_not_followed",
        Fault::redirect("https://other.example/"),
        "source_reply_invalid",
        "answered 302, a redirect"
    ),
    bad_answer!("an_html_page_of_a_source_is_rejected", Fault::html(), "source_reply_invalid", "is an HTML page"),
    bad_answer!(
        "a_torn_answer_of_a_source_is_rejected",
        Fault::Deliver(Delivery::Torn),
        "source_reply_invalid",
        "is not valid JSON, or is incomplete"
    ),
    bad_answer!(
        "a_huge_answer_of_a_source_is_rejected",
        Fault::Deliver(Delivery::Padding(65 * 1024)),
        "source_reply_invalid",
        "more than 65536"
    ),
    bad_answer!(
        "a_value_of_another_type_is_rejected",
        Fault::Token(TokenFault::Replaced(json!(5))),
        "source_reply_invalid",
        "has no string at"
    ),
    bad_answer!(
        "a_torn_token_of_a_source_is_rejected",
        Fault::Token(TokenFault::Torn),
        "assertion_malformed",
        "is not a JWT"
    ),
    bad_answer!(
        "an_expired_token_of_a_source_is_rejected",
        Fault::Token(TokenFault::Expired(60)),
        "assertion_expired",
        "expired on"
    ),
    bad_answer!(
        "a_token_of_another_algorithm_is_rejected",
        Fault::Token(TokenFault::Algorithm(fake_entra::OtherAlgorithm::Es256)),
        "assertion_invalid",
        "is signed with ES256"
    ),
    bad_answer!(
        "a_token_with_two_audiences_is_rejected",
        Fault::audiences(&[AUDIENCE, "account"]),
        "assertion_invalid",
        "has 2 audiences"
    ),
    bad_answer!(
        "a_token_for_another_audience_is_rejected",
        Fault::audiences(&["account"]),
        "assertion_unexpected",
        "the expected audience is"
    ),
    bad_answer!(
        "a_token_that_entra_issued_is_rejected",
        Fault::issuer("https://login.microsoftonline.com/11111111-1111-4111-8111-111111111111/v2.0"),
        "assertion_invalid",
        "was issued by Entra"
    ),
    bad_answer!(
        "a_huge_token_is_rejected",
        Fault::Token(TokenFault::Padding(20 * 1024)),
        "assertion_malformed",
        "more than 16384"
    ),
    bad_answer!(
        "a_dead_connection_to_a_source_is_reported",
        Fault::Deliver(Delivery::Reset),
        "assertion_unavailable",
        "could not be reached"
    ),
    bad_answer!(
        "an_answer_that_breaks_off_is_reported",
        Fault::Deliver(Delivery::Truncate),
        "assertion_unavailable",
        "could not be reached"
    ),
    bad_answer!("a_throttled_source_is_reported", Fault::retry_after("120"), "assertion_unavailable", "answered 429"),
    bad_answer!("a_job_that_stays_pending_is_reported", GitHub::pending(), "source_not_ready", "which means not yet"),
    bad_answer!("a_source_that_refuses_is_reported", Fault::status(401), "source_refused", "refused with 401"),
    bad_answer!(
        "a_token_without_a_subject_is_rejected",
        Fault::Token(TokenFault::Without("sub")),
        "assertion_invalid",
        "has no subject"
    ),
    bad_answer!(
        "a_token_that_is_not_valid_yet_is_rejected",
        Fault::Token(TokenFault::NotYetValid(3600)),
        "assertion_not_yet_valid",
        "is not valid before"
    ),
    bad_answer!(
        "an_opaque_token_is_rejected",
        Fault::Token(TokenFault::Replaced(json!("0paque"))),
        "assertion_malformed",
        "is not a JWT"
    ),
    SourceScenario {
        name: "a_slow_source_is_reported",
        source: impatient_json_service,
        run: |host, source| {
            fails_because(host, source, Fault::no_response(), "assertion_unavailable", "did not answer within 1 s")
        },
    },
    SourceScenario {
        name: "a_source_that_echoes_the_secret_is_quoted_without_it",
        source: json_service,
        run: |host, source| {
            let (_, secret) = &source.variables[0];
            let echo = Fault::Respond(Response::of_type("text/plain", 400, format!("bad key {secret}, {secret:?}")));
            fails_because(host, source, echo, "source_refused", "bad key (hidden), ");
        },
    },
    SourceScenario {
        name: "a_token_that_contains_the_sources_secret_is_sent_to_nobody",
        source: json_service,
        run: |host, source| {
            let (_, secret) = &source.variables[0];
            let repeating = Fault::Token(TokenFault::Claim("sub", json!(format!("sub of {secret}"))));
            fails_because(host, source, repeating, "source_reply_invalid", "contains a secret");
        },
    },
];
