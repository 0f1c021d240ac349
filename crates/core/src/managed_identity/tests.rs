//! Every reply to the byte, and every way in which a caller may ask.

mod metadata_address;

use std::time::Duration;

use super::*;
use crate::broker::{Issued, Need, Stale};
use crate::decision::{Effect, Refusal};
use crate::entra::AccessToken;
use crate::http::tests::Sent;
use crate::metrics::Outcome;
use crate::policy::Policy;
use crate::time::Timestamp;

const ORDERS: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const REPORTS: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const OBJECT: &str = "dddddddd-0000-4000-8000-000000000004";
const RESOURCE_ID: &str = "/subscriptions/cccccccc-0000-4000-8000-000000000003/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reports";
const TOKEN_PATH: &str = "/metadata/identity/oauth2/token";
const SECRET: &str = "0f8e3b7a";

fn variable(name: &str) -> Option<String> {
    match name {
        "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
        "IDENTITY_HEADER" => Some(SECRET.to_owned()),
        _ => None,
    }
}

/// Two identities, with more in `managed_identity`.
fn policy_with(more: &str) -> Policy {
    let text = format!(
        r#"{{
            "identities": [
                {{"name": "orders", "client_id": "{ORDERS}", "resources": ["https://vault.azure.net", "https://database.windows.net/"]}},
                {{"name": "reports", "client_id": "{REPORTS}", "object_id": "{OBJECT}", "resource_id": "{RESOURCE_ID}"}},
                {{"name": "hidden", "client_id": "cccccccc-0000-4000-8000-000000000003"}}
            ],
            "managed_identity": {{"identities": ["orders", "reports"], {more}}}
        }}"#
    );
    Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false)
}

fn policy() -> Policy {
    policy_with(
        r#""imds": {"pass": ["/metadata/instance/"]}, "app_service": {}, "health": {"hosts": ["entra-exchange.health"]}"#,
    )
}

fn local(host: &str, target: &str) -> Sent {
    Sent::get(host, target).property(&["destination", "address"], "127.0.0.1:15002")
}

/// As IMDS clients send it; the resource and the version are there already.
fn imds(more: &str) -> Sent {
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=https://vault.azure.net{more}");
    local("169.254.169.254", &target).header("metadata", b"true")
}

fn app_service(query: &str) -> Sent {
    local("127.0.0.1:15091", &format!("/msi/token?{query}"))
}

/// What was decided, in a line: whose token for what, or the status and body of the reply.
fn said(decision: Decision) -> String {
    match decision {
        Decision::Exchange(grant, _) => format!("{} {}", grant.identity(), grant.scope()),
        Decision::Report(report) | Decision::ReportToNode(report) => report.in_words(),
        Decision::Refuse(Refusal { reply, .. }) | Decision::Reply(reply) => {
            format!("{} {}", reply.status, String::from_utf8(reply.body).unwrap())
        }
        Decision::Ignore => "ignore".to_owned(),
        Decision::Check(readiness) => {
            let name = |identity: &Decisive| match &identity.credential {
                Ok(_) => identity.name.clone(),
                Err(problem) => format!("{} ({})", identity.name, problem.code.as_str()),
            };
            format!("check {}", readiness.identities.iter().map(name).collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn asked(request: &Sent) -> String {
    said(policy().decide(request))
}

fn issued() -> (Issued, Timestamp) {
    let at = Timestamp::from_unix_seconds(1_561_000_678);
    let issued = Issued::new(AccessToken::parse("abc").unwrap(), at, Duration::from_secs(3599), None, 0);
    (issued, at.plus(Duration::from_secs(99)))
}

/// The reply to a request when its exchange comes to this.
fn reply(request: &Sent, outcome: Result<(), &Problem>) -> Reply {
    let Decision::Exchange(_, delivery) = policy().decide(request) else { panic!("no exchange") };
    assert_eq!(delivery.need(), Need::LongLived);
    let (issued, now) = issued();
    match delivery.deliver(outcome.map(|()| &issued), now) {
        (Effect::Reply(reply), Outcome::Answered | Outcome::Failed) => reply,
        _ => panic!("not answered"),
    }
}

fn body(reply: Reply) -> String {
    assert!(reply.headers.contains(&("cache-control", "no-store".to_owned())));
    assert!(reply.headers.contains(&("content-type", "application/json; charset=utf-8".to_owned())));
    String::from_utf8(reply.body).unwrap()
}

#[test]
fn a_token_request_is_read_as_each_library_writes_it() {
    for target in [
        format!("{TOKEN_PATH}?api-version=2018-02-01&resource=https://vault.azure.net&client_id={ORDERS}"),
        format!("/{TOKEN_PATH}?resource=https%3A%2F%2Fvault.azure.net&api-version=2019-08-01&client_id={ORDERS}"),
        format!(
            "{TOKEN_PATH}/?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&xms_cc=cp1&client_id={ORDERS}"
        ),
        format!(
            "/Metadata/identity/oauth2/token?api-version=2099-01-01&resource=https://vault.azure.net&bypass_cache=true&client_id={ORDERS}"
        ),
    ] {
        let request = local("169.254.169.254:80", &target).header("metadata", b"True");
        assert_eq!(asked(&request), "orders https://vault.azure.net/.default", "{target}");
    }
}

#[test]
fn every_selector_finds_its_identity_and_none_falls_back_to_another() {
    for (name, value) in [
        ("client_id", REPORTS.to_uppercase()),
        ("object_id", OBJECT.to_owned()),
        ("principal_id", OBJECT.to_owned()),
        ("msi_res_id", RESOURCE_ID.to_owned()),
        ("mi_res_id", RESOURCE_ID.replace("resourcegroups", "resourceGroups")),
        ("msi-res-id", RESOURCE_ID.replace('/', "%2F")),
        ("clientid", REPORTS.to_owned()),
    ] {
        assert_eq!(asked(&imds(&format!("&{name}={value}"))), "reports https://vault.azure.net/.default", "{name}");
        for unknown in ["cccccccc-0000-4000-8000-000000000003", "orders"] {
            let said = asked(&imds(&format!("&{name}={unknown}")));
            assert_eq!(
                said,
                format!(
                    r#"400 {{"error":"invalid_request","error_description":"Identity not found. No identity on offer has {name} \"{unknown}\": add it to managed_identity.identities."}}"#
                )
            );
        }
    }
    assert_eq!(
        asked(&imds("")),
        r#"400 {"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request. Name an identity with client_id; or write managed_identity.default_identity."}"#
    );
}

#[test]
fn the_guard_is_imdss_own() {
    let guarded = |request: &Sent| asked(request).split(". ").next().unwrap().to_owned();
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=x&client_id={REPORTS}");
    for request in [
        local("169.254.169.254", &target),
        local("169.254.169.254", TOKEN_PATH),
        local("169.254.169.254", &target).header("metadata", b"yes"),
        local("169.254.169.254", &target).header("metadata", b"true,true"),
    ] {
        assert_eq!(
            guarded(&request),
            r#"400 {"error":"invalid_request","error_description":"Required metadata header not specified"#
        );
    }
    // IMDS refuses the header whatever its value, and a proxy may leave an empty one.
    for value in ["10.0.0.1", "", " "] {
        let said = asked(&imds("").header("x-forwarded-for", value.as_bytes()));
        assert!(said.starts_with("400") && said.contains("use_remote_address: false"), "{value:?}: {said}");
    }
    for method in ["POST", "HEAD", "get"] {
        assert!(guarded(&imds("").header(":method", method.as_bytes())).starts_with("405"), "{method}");
    }
    for more in ["&resource=x", "&client_id=a&object_id=b", "&client_id=a&client_id=a"] {
        assert!(asked(&imds(more)).starts_with(r#"400 {"error":"invalid_request""#), "{more}");
    }
    for query in [
        "",
        "?",
        "?resource=x",
        "?api-version=2017-12-01&resource=x",
        "?api-version=2018-02-01&resource=",
        "?api-version=2018-02-01&resource=a%20b&client_id=x",
        "?api-version=2018-02-01&resource=a%00&client_id=x",
    ] {
        let request = local("127.0.0.1", &format!("{TOKEN_PATH}{query}")).header("metadata", b"true");
        let answer = asked(&request);
        assert!(answer.starts_with("400 ") && !answer.contains("Identity"), "{query}: {answer}");
    }
}

#[test]
fn only_the_pod_itself_is_answered() {
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=x&client_id={REPORTS}");
    for (address, answered) in [
        ("169.254.169.254:80", true),
        ("127.0.0.7:1", true),
        ("[::1]:80", true),
        ("10.0.0.7:80", false),
        ("169.254.169.253:80", false),
        ("", false),
    ] {
        let request = Sent::get("169.254.169.254", &target)
            .header("metadata", b"true")
            .property(&["destination", "address"], address);
        assert_eq!(asked(&request).starts_with("reports "), answered, "{address}");
    }
    let text = r#"{"managed_identity": {"imds": {}, "app_service": {}}}"#;
    let on_gateway = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), true);
    for request in [imds(""), app_service("api-version=2019-08-01&resource=x")] {
        assert!(said(on_gateway.decide(&request)).contains("never answered on a gateway"));
    }
}

#[test]
fn other_hosts_and_paths_are_not_answered() {
    for host in ["metadata.evil.example", "169.254.169.253", "169.254.169.254.", "2852039166"] {
        let request = local(host, &format!("{TOKEN_PATH}?api-version=2018-02-01&resource=x"));
        assert_eq!(asked(&request.header("metadata", b"true")), "ignore", "{host}");
    }
    for path in [
        "/",
        "/metadata/scheduledevents",
        "/metadata/identity/oauth2/tokenfoo",
        "/metadata/identity/oauth2/token/x",
        "/metadata/Identity/oauth2/token",
        "/metadata/identity/info",
        "/metadata/instancefoo",
        "/metadata/instance/../identity/oauth2/token",
        "/metadata/instance/%2e%2e/identity/oauth2/token",
        "/metadata/instance//identity",
        "///metadata/identity/oauth2/token",
        "/x/identity/oauth2/token",
        "",
    ] {
        let request = local("169.254.169.254", path).header("metadata", b"true");
        assert!(asked(&request).starts_with(r#"403 {"error":"invalid_request""#), "{path}: {}", asked(&request));
    }
    for path in ["/metadata/identity/getplatformmetadata?cred-api-version=2.0", "/metadata/identity/issuecredential"] {
        assert!(asked(&local("169.254.169.254", path)).starts_with("404 "), "{path}");
    }
}

#[test]
fn what_is_listed_goes_on_to_the_node() {
    for path in ["/metadata/instance", "/metadata/instance/compute?api-version=2021-02-01"] {
        assert_eq!(asked(&local("169.254.169.254", path)), "ignore");
        let from_outside = Sent::get("169.254.169.254", path).property(&["destination", "address"], "10.0.0.7:80");
        assert!(asked(&from_outside).starts_with("403 "));
    }
}

#[test]
fn a_resource_that_an_identity_is_not_offered_for_is_refused() {
    let ask = |resource: &str| {
        let target = format!("{TOKEN_PATH}?api-version=2018-02-01&client_id={ORDERS}&resource={resource}");
        asked(&local("127.0.0.1", &target).header("metadata", b"true"))
    };
    // A slash at the end makes no difference to the list, only to what is asked for.
    assert_eq!(ask("https://vault.azure.net/"), "orders https://vault.azure.net//.default");
    assert_eq!(ask("https://database.windows.net"), "orders https://database.windows.net/.default");
    assert_eq!(ask("https://vault.azure.net/.default"), "orders https://vault.azure.net/.default");
    assert_eq!(
        ask("https://storage.azure.com"),
        r#"400 {"error":"invalid_resource","error_description":"identity \"orders\" is not offered for the resource \"https://storage.azure.com\". It is offered for https://vault.azure.net, https://database.windows.net; the list is resources of the identity."}"#
    );
    assert!(ask("https://vault.azure.net//").starts_with("400 ") && ask("https://VAULT.azure.net").starts_with("400 "));
}

#[test]
fn imds_replies_all_strings_in_its_own_order() {
    let request = imds(&format!("&client_id={ORDERS}"));
    assert_eq!(
        body(reply(&request, Ok(()))),
        format!(
            r#"{{"access_token":"abc","client_id":"{ORDERS}","expires_in":"3500","expires_on":"1561004277","ext_expires_in":"3500","not_before":"1561000678","resource":"https://vault.azure.net","token_type":"Bearer"}}"#
        )
    );
}

#[test]
fn entras_refusal_is_final_and_what_may_pass_is_retried() {
    let request = imds(&format!("&client_id={ORDERS}"));
    let problem = Problem::new(Code::EntraRefused, "AADSTS700016: no such application.", "Correct it.");
    let mut problem = problem.retry_after(Duration::from_secs(30));
    problem.entra.error = crate::untrusted::OAuthError::parse("unauthorized_client");
    let answer = reply(&request, Err(&problem));
    assert_eq!(answer.status, 400);
    assert!(answer.headers.iter().all(|(name, _)| *name != "retry-after"), "azure-core for Python would wait");
    assert_eq!(
        body(answer),
        r#"{"error":"unauthorized_client","error_description":"AADSTS700016: no such application. Correct it."}"#
    );
    for code in [Code::AssertionInvalid, Code::AssertionMalformed] {
        let answer = reply(&request, Err(&Problem::new(code, "d", "r").retry_after(Duration::from_secs(2))));
        assert_eq!((answer.status, answer.headers.iter().any(|(name, _)| *name == "retry-after")), (400, false));
        assert_eq!(body(answer), r#"{"error":"invalid_client","error_description":"d. r"}"#);
    }
    for code in [
        Code::WaitedTooLong,
        Code::EntraUnavailable,
        Code::TooManyWaiting,
        Code::AssertionUnavailable,
        Code::AssertionExpired,
        Code::AssertionNotYetValid,
    ] {
        let answer = reply(&request, Err(&Problem::new(code, "d", "r").retry_after(Duration::from_secs(2))));
        assert_eq!(answer.status, 503);
        assert!(answer.headers.contains(&("retry-after", "2".to_owned())));
        assert_eq!(body(answer), r#"{"error":"temporarily_unavailable","error_description":"d. r"}"#);
    }
}

#[test]
fn app_service_is_answered_to_whoever_knows_the_secret() {
    let current = format!("api-version=2019-08-01&resource=https://vault.azure.net&client_id={ORDERS}");
    let first = format!("api-version=2017-09-01&resource=https://vault.azure.net&clientid={ORDERS}");
    for (query, header) in [(&current, "x-identity-header"), (&first, "secret")] {
        let right = app_service(query).header(header, SECRET.as_bytes());
        assert_eq!(asked(&right), "orders https://vault.azure.net/.default");
        for wrong in ["", "0f8e3b7", "0f8e3b7a0", "0F8E3B7A"] {
            assert_eq!(
                asked(&app_service(query).header(header, wrong.as_bytes())),
                format!(
                    r#"401 {{"statusCode":401,"message":"the header {header} is missing or wrong. Give the app the same IDENTITY_HEADER (MSI_SECRET) as the proxy."}}"#
                )
            );
        }
        // Each version has its own header, and `Metadata: true` is no secret.
        let other = if header == "secret" { "x-identity-header" } else { "secret" };
        let request = app_service(query).header(other, SECRET.as_bytes()).header("metadata", b"true");
        assert!(asked(&request).starts_with("401 "));
        assert!(asked(&right.header(":method", b"POST")).starts_with(r#"405 {"statusCode":405,"#));
    }
    let request = Sent::get("127.0.0.1", &format!("/msi/token?{current}"))
        .header("x-identity-header", SECRET.as_bytes())
        .property(&["destination", "address"], "10.0.0.7:15091");
    assert!(asked(&request).starts_with("403 "));
}

#[test]
fn no_protocol_gives_a_token_of_an_identity_that_was_not_asked_for() {
    // With a default identity, which is what a selector that is ignored would get.
    let policy = policy_with(r#""default_identity": "orders", "imds": {}, "app_service": {}"#);
    let protocols = [
        (TOKEN_PATH, "2018-02-01", "metadata", "true"),
        ("/msi/token", "2017-09-01", "secret", SECRET),
        ("/msi/token", "2019-08-01", "x-identity-header", SECRET),
    ];
    for (path, version, header, value) in protocols {
        let ask = |more: &str| {
            let target = format!("{path}?api-version={version}&resource=https://storage.azure.com{more}");
            said(policy.decide(&local("127.0.0.1", &target).header(header, value.as_bytes())))
        };
        for (names, own) in [
            (
                [
                    "client_id",
                    "CLIENT_ID",
                    "Client_Id",
                    "clientid",
                    "clientId",
                    "ClientID",
                    "%63lient_id",
                    "client%5fid",
                ],
                REPORTS,
            ),
            (
                [
                    "object_id",
                    "OBJECT_ID",
                    "principal_id",
                    "Principal_Id",
                    "principal%5Fid",
                    "%6Fbject_id",
                    "object_Id",
                    "OBJECT%5FID",
                ],
                OBJECT,
            ),
            (
                [
                    "msi_res_id",
                    "MSI_RES_ID",
                    "mi_res_id",
                    "Mi_Res_Id",
                    "msi-res-id",
                    "mi%5Fres%5Fid",
                    "msi_Res_Id",
                    "%6Di_res_id",
                ],
                RESOURCE_ID,
            ),
        ] {
            for name in names {
                assert_eq!(
                    ask(&format!("&{name}={own}")),
                    "reports https://storage.azure.com/.default",
                    "{version} {name}"
                );
                let nobody = ask(&format!("&{name}=ffffffff-0000-4000-8000-00000000000f"));
                assert!(
                    nobody.starts_with("400 ") && nobody.contains("Identity not found"),
                    "{version} {name}: {nobody}"
                );
                let none = ask(&format!("&{name}="));
                assert!(
                    none.contains("is not offered for the resource"),
                    "the default identity: {version} {name}: {none}"
                );
            }
        }
    }
}

#[test]
fn app_service_knows_its_versions() {
    let ask = |query: &str| {
        let request = app_service(query).header("x-identity-header", SECRET.as_bytes());
        asked(&request.header("secret", SECRET.as_bytes()))
    };
    for version in ["", "api-version=2018-02-01&", "api-version=2017-09-02&", "api-version=&"] {
        assert!(ask(&format!("{version}resource=x&client_id={REPORTS}")).starts_with("400 "), "{version}");
    }
    assert_eq!(ask(&format!("API-Version=2019-08-01&resource=x&client_id={REPORTS}")), "reports x/.default");
    let twice = format!("api-version=2019-08-01&api-version=2017-09-01&resource=x&client_id={REPORTS}");
    assert!(ask(&twice).starts_with("400 "));
    assert_eq!(asked(&local("127.0.0.1", "/msi/tokens").header("metadata", b"true")).split(' ').next(), Some("403"));
}

#[test]
fn app_service_replies_as_its_versions_do() {
    let send = |version: &str, selector: &str| {
        let query = format!("api-version={version}&resource=https://vault.azure.net/&{selector}");
        app_service(&query).header("x-identity-header", SECRET.as_bytes()).header("secret", SECRET.as_bytes())
    };
    let by_client_id = format!("client_id={ORDERS}");
    assert_eq!(
        body(reply(&send("2019-08-01", &by_client_id), Ok(()))),
        format!(
            r#"{{"access_token":"abc","client_id":"{ORDERS}","expires_on":"1561004277","resource":"https://vault.azure.net/","token_type":"Bearer"}}"#
        )
    );
    assert_eq!(
        body(reply(&send("2017-09-01", &format!("clientid={ORDERS}")), Ok(()))),
        format!(
            r#"{{"access_token":"abc","client_id":"{ORDERS}","expires_on":"06/20/2019 04:17:57 +00:00","resource":"https://vault.azure.net/","token_type":"Bearer"}}"#
        )
    );
    // Only the first version leaves the client id out, where none was named.
    let by_object_id = format!("object_id={OBJECT}");
    assert_eq!(
        body(reply(&send("2017-09-01", &by_object_id), Ok(()))),
        r#"{"access_token":"abc","expires_on":"06/20/2019 04:17:57 +00:00","resource":"https://vault.azure.net/","token_type":"Bearer"}"#
    );
    assert!(body(reply(&send("2019-08-01", &by_object_id), Ok(()))).contains(REPORTS));
    let problem = Problem::new(Code::EntraRefused, "AADSTS700016: no", "Correct it.");
    let answer = reply(&send("2019-08-01", &by_client_id), Err(&problem));
    assert_eq!(answer.status, 400);
    assert_eq!(body(answer), r#"{"statusCode":400,"message":"AADSTS700016: no. Correct it."}"#);
    let answer = reply(&send("2019-08-01", &by_client_id), Err(&Problem::new(Code::EntraUnavailable, "d", "r")));
    assert_eq!(body(answer), r#"{"statusCode":503,"message":"d. r"}"#);
}

#[test]
fn without_its_secret_app_service_says_what_is_missing() {
    let text = r#"{"managed_identity": {"app_service": {"secret_from_env": "SECRET"}}}"#;
    for empty in [None, Some(String::new())] {
        let variable = |name: &str| if name == "SECRET" { empty.clone() } else { variable(name) };
        let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
        let said =
            said(policy.decide(&app_service("api-version=2019-08-01&resource=x").header("x-identity-header", b"")));
        assert!(said.starts_with(r#"400 {"statusCode":400,"message":"SECRET is not set in the proxy"#), "{said}");
    }
}

#[test]
fn report_leaves_the_answer_to_the_node_and_refuse_gives_none() {
    let request = imds(&format!("&client_id={ORDERS}"));
    let report = policy_with(r#""action": "report", "imds": {}"#);
    assert_eq!(said(report.decide(&request)), "report orders https://vault.azure.net/.default, enforced: forwarded");
    // The node's own endpoint judges these.
    for (request, code) in [
        (imds(""), "identity_ambiguous"),
        (imds("&client_id=x"), "identity_not_found"),
        (local("169.254.169.254", TOKEN_PATH), "metadata_header_missing"),
    ] {
        assert_eq!(said(report.decide(&request)), format!("report unknown no token, enforced: {code}"));
    }
    let refuse = policy_with(r#""action": "refuse", "imds": {"pass": ["/metadata/instance"]}"#);
    assert!(
        said(refuse.decide(&request)).starts_with(
            r#"403 {"error":"invalid_request","error_description":"managed_identity.action is \"refuse\""#
        )
    );
    assert_eq!(said(refuse.decide(&local("169.254.169.254", "/metadata/instance"))), "ignore");
}

#[test]
fn a_token_that_is_not_wanted_any_more_is_named() {
    let stale = |more: &str| match policy().decide(&imds(&format!("&client_id={ORDERS}{more}"))) {
        Decision::Exchange(_, delivery) => delivery.stale(),
        other => panic!("{other:?}"),
    };
    assert_eq!(stale(""), None);
    assert_eq!(stale("&bypass_cache=true"), Some(Stale::Any));
    let digest = AccessToken::parse("test_token").unwrap().digest();
    let hash = "cc0af97287543b65da2c7e1476426021826cab166f1e063ed012b855ff819656";
    assert_eq!(stale(&format!("&token_sha256_to_refresh={hash}")), Some(Stale::Digest(digest)));
}

#[test]
fn health_is_answered_to_the_kubelet_and_nothing_else_is() {
    let outside =
        |host: &str, path: &str| Sent::get(host, path).property(&["destination", "address"], "10.0.0.7:15020");
    assert_eq!(asked(&outside("entra-exchange.health:15020", "/healthz")), "200 ok");
    assert_eq!(asked(&outside("entra-exchange.health", "/readyz?verbose")), "check orders reports");
    assert!(asked(&outside("entra-exchange.health", "/readyz").header(":method", b"POST")).starts_with("405 "));
    assert_eq!(asked(&outside("entra-exchange.health", TOKEN_PATH)), "ignore");
    assert!(asked(&outside("127.0.0.1", "/readyz")).starts_with("403 "));
    let decided = policy_with(r#""default_identity": "reports", "health": {"hosts": ["h"]}"#);
    assert_eq!(said(decided.decide(&outside("h", "/readyz"))), "check reports");
    let named = policy_with(r#""default_identity": "reports", "health": {"hosts": ["h"], "identities": ["orders"]}"#);
    assert_eq!(said(named.decide(&outside("h", "/readyz"))), "check orders");
    // Without a client id, no exchange can ever succeed: the check will say so.
    let text = r#"{"managed_identity": {"health": {"hosts": ["h"]}}}"#;
    let incomplete = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    assert_eq!(said(incomplete.decide(&outside("h", "/readyz"))), "check default (variable_missing)");
}

#[test]
fn without_a_default_identity_all_that_the_configuration_uses_decide_readiness() {
    let text = |destination: &str, managed: &str| {
        format!(
            r#"{{
                "identities": [
                    {{"name": "a", "client_id": "{ORDERS}"}}, {{"name": "b", "client_id": "{ORDERS}"}},
                    {{"name": "c", "client_id": "{ORDERS}"}}, {{"name": "unused", "client_id": "{ORDERS}"}}
                ],
                "destinations": [{{"hosts": ["h.example"], "scope": "x/.default", "tls_clusters": ["c"], {destination}}}],
                "managed_identity": {{{managed}, "health": {{"hosts": ["h"]}}}}
            }}"#
        )
    };
    for (destination, managed, expected) in [
        (r#""identity": "a""#, r#""identities": ["b", "c"]"#, "check a b c"),
        (r#""identity": "b", "action": "report""#, r#""identities": ["b", "c"]"#, "check b c"),
        (r#""identity": "a""#, r#""identities": ["b", "c"], "default_identity": "c""#, "check c"),
        (r#""identity": "a""#, r#""identities": ["b"]"#, "check b"),
    ] {
        let variable =
            |name: &str| (name == "AZURE_TENANT_ID").then(|| "11111111-1111-4111-8111-111111111111".to_owned());
        let config = Config::parse(text(destination, managed).as_bytes(), &variable).unwrap();
        let policy = Policy::new(&config, false);
        let request = Sent::get("h", "/readyz").property(&["destination", "address"], "10.0.0.7:15020");
        assert_eq!(said(policy.decide(&request)), expected, "{destination} {managed}");
    }
}

#[test]
fn a_missing_client_id_is_told_to_whoever_names_one() {
    let text = r#"{"managed_identity": {"imds": {}}}"#;
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    assert!(said(policy.decide(&imds(&format!("&client_id={ORDERS}")))).contains("AZURE_CLIENT_ID is not set"));
    assert!(said(policy.decide(&imds(&format!("&object_id={OBJECT}")))).contains("Identity not found"));
}

#[test]
fn two_identities_that_cannot_be_told_apart_are_nobodys() {
    let text = format!(
        r#"{{
            "identities": [
                {{"name": "a", "client_id": "{ORDERS}"}},
                {{"name": "b", "client_id": "{ORDERS}", "tenant_id": "22222222-2222-4222-8222-222222222222", "object_id": "{OBJECT}"}}
            ],
            "managed_identity": {{"identities": ["a", "b"], "imds": {{}}}}
        }}"#
    );
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let said_to = |more: String| said(policy.decide(&imds(&more)));
    assert!(
        said_to(format!("&client_id={ORDERS}")).contains(r#"the identities \"a\" and \"b\" both have this client_id"#)
    );
    assert!(said_to(format!("&object_id={OBJECT}")).starts_with("b "));
}

#[test]
fn a_resource_is_listed_where_the_identity_or_a_destination_of_its_names_it() {
    let text = format!(
        r#"{{
            "identities": [
                {{"name": "a", "client_id": "{ORDERS}"}},
                {{"name": "b", "client_id": "{REPORTS}", "resources": ["https://vault.azure.net"]}}
            ],
            "destinations": [
                {{"hosts": ["h.example"], "scope": "api://x/.default", "identity": "a", "tls_clusters": ["c"]}},
                {{"hosts": ["i.example"], "scope": "api://y/.default", "identity": "a", "action": "report", "tls_clusters": ["c"]}},
                {{"hosts": ["j.example"], "scope": "api://z/.default", "identity": "b", "tls_clusters": ["c"]}}
            ],
            "managed_identity": {{"identities": ["a", "b"], "imds": {{}}}}
        }}"#
    );
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let is_listed = |client: &str, resource: &str| {
        let path = format!("{TOKEN_PATH}?api-version=2018-02-01&resource={resource}&client_id={client}");
        match policy.decide(&local("169.254.169.254", &path).header("metadata", b"true")) {
            Decision::Exchange(grant, _) => grant.is_listed(),
            other => panic!("{other:?}"),
        }
    };
    for resource in ["api://x", "api://x/.default", "api://y"] {
        assert!(is_listed(ORDERS, resource), "{resource}");
    }
    for resource in ["api://x/", "api://X", "api://z", "https://vault.azure.net"] {
        assert!(!is_listed(ORDERS, resource), "{resource}");
    }
    assert!(is_listed(REPORTS, "https://vault.azure.net/"));
}

#[test]
fn a_resource_is_listed_whatever_name_its_client_is_asked_by() {
    let text = format!(
        r#"{{
            "identities": [{{"name": "a", "client_id": "{ORDERS}"}}, {{"name": "b", "client_id": "{ORDERS}"}}],
            "destinations": [
                {{"hosts": ["h.example"], "scope": "api://x/.default", "identity": "a", "tls_clusters": ["c"]}}
            ],
            "managed_identity": {{"identities": ["b"], "imds": {{}}}}
        }}"#
    );
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let path = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=api://x");
    let request = local("169.254.169.254", &path).header("metadata", b"true");
    let Decision::Exchange(grant, _) = policy.decide(&request) else { panic!("no token") };
    assert_eq!((grant.identity(), grant.is_listed()), ("b", true), "it is the token of the destination");
}

#[test]
fn a_caller_over_the_rate_reads_429_and_when_to_come_again_in_its_protocol() {
    let problem = Problem::new(Code::TooManyScopes, "d", "r").retry_after(std::time::Duration::from_millis(29_001));
    for (reply, body) in [
        (imds::problem_reply(&problem), r#"{"error":"temporarily_unavailable","error_description":"d. r"}"#),
        (app_service::problem_reply(&problem), r#"{"statusCode":429,"message":"d. r"}"#),
    ] {
        assert_eq!((reply.status, String::from_utf8(reply.body).unwrap().as_str()), (429, body));
        assert!(reply.headers.contains(&("retry-after", "30".to_owned())), "{:?}", reply.headers);
    }
}
