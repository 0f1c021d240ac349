//! Tests of the sources that belong to a platform.

use serde_json::json;

use super::*;

fn imds() -> Source {
    one(json!({"source": "azure_managed_identity", "cluster": "imds", "client_id": "c 1"}))
}

/// The problem of a configuration whose source is App Service's endpoint at this URL.
fn app_service_at(url: &'static str) -> Result<Source, Problem> {
    let text = json!({
        "assertions": [{"name": "a", "source": "azure_app_service", "cluster": "app", "client_id": "c"}],
        "identities": [{"assertion": "a"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let variable = move |name: &str| match name {
        "IDENTITY_ENDPOINT" => Some(url.to_owned()),
        "IDENTITY_HEADER" => Some("secret-of-the-app".to_owned()),
        other => variable(other),
    };
    let config = Config::parse(text.to_string().as_bytes(), &variable).unwrap_or_else(|found| panic!("{found:?}"));
    config.identities[0].spec("s/.default").map(|spec| spec.assertion().clone())
}

#[test]
fn imds_is_asked_for_the_exchanges_resource_with_the_identity() {
    let call = imds().call(None);
    assert_eq!((call.method, call.authority.as_str()), ("GET", "169.254.169.254"));
    assert_eq!(
        call.path,
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api%3A%2F%2FAzureADTokenExchange&client_id=c%201"
    );
    assert_eq!(header(&call, "metadata"), Some("true"));
}

#[test]
fn app_service_is_asked_at_the_url_of_the_platform_if_that_is_on_this_machine() {
    for url in
        ["http://localhost:8081/msi/token", "http://127.0.0.1:42356/msi/token/", "http://169.254.129.3:8081/msi/token"]
    {
        let call = app_service_at(url).unwrap().call(None);
        let target = ["http://", &call.authority, &call.path].concat();
        assert!(target.starts_with(&[url, "?api-version=2019-08-01&resource=api%3A"].concat()), "{target}");
        assert_eq!(header(&call, "x-identity-header"), Some("secret-of-the-app"));
    }
    for url in [
        "http://10.0.0.1/msi/token",
        "http://localhost.example/msi/token",
        "https://app.example/msi/token",
        "ftp://localhost/",
    ] {
        assert_eq!(app_service_at(url).unwrap_err().code, Code::EnvVarMissing, "{url}");
    }
}

#[test]
fn a_plaintext_url_of_this_machine_is_no_url_of_github() {
    let text = json!({
        "assertions": [{"name": "a", "source": "github_actions", "cluster": "github"}], "identities": [{"assertion": "a"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let variable = |name: &str| match name {
        "ACTIONS_ID_TOKEN_REQUEST_URL" => Some("http://localhost/idtoken".to_owned()),
        other => variable(other),
    };
    let config = Config::parse(text.to_string().as_bytes(), &variable).unwrap();
    let problem = config.identities[0].spec("s/.default").map(drop).unwrap_err();
    assert!(problem.code == Code::EnvVarMissing && problem.detail.contains("allowed_hosts"), "{problem:?}");
}

#[test]
fn the_audience_of_a_managed_identity_is_that_of_the_authoritys_cloud() {
    for (authority, audience) in [
        ("login.microsoftonline.us", "AzureADTokenExchangeUSGov"),
        ("login.partner.microsoftonline.cn", "AzureADTokenExchangeChina"),
        ("login.sovcloud-identity.fr", "AzureADTokenExchangeFrance"),
        ("login.sovcloud-identity.de", "AzureADTokenExchangeGermany"),
        ("login.sovcloud-identity.sg", "AzureADTokenExchangeGovSG"),
    ] {
        let text = json!({
            "entra": {"authority": format!("https://{authority}")},
            "assertions": [{"name": "a", "source": "azure_managed_identity", "cluster": "imds", "client_id": "c"}],
            "identities": [{"assertion": "a"}],
            "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
        });
        let config = Config::parse(text.to_string().as_bytes(), &variable).unwrap();
        let spec = config.identities[0].spec("s/.default").unwrap();
        let (_, _, path) = spec.assertion().target();
        assert!(path.contains(&format!("{audience}&")), "{path}");
    }
}

#[test]
fn an_identity_that_is_not_assigned_is_a_refusal_that_names_it() {
    let body = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    let found = problem(&imds(), answer(400, body));
    assert!(found.code == Code::SourceRefused && found.detail.contains("Identity not found"), "{found:?}");
    assert!(found.remedy.contains("client_id") && found.remedy.contains("not to this filter"), "{}", found.remedy);
}

fn aws() -> Source {
    one(json!({"source": "aws_sts", "cluster": "aws", "region": "eu-central-1"}))
}

#[test]
fn aws_sts_is_asked_for_an_rs256_token_at_the_host_of_its_region() {
    let call = aws().call(None);
    assert_eq!(
        (call.method, call.authority.as_str(), call.path.as_str()),
        ("POST", "sts.eu-central-1.amazonaws.com", "/")
    );
    assert_eq!(
        String::from_utf8(call.body).unwrap(),
        "Action=GetWebIdentityToken&Version=2011-06-15&Audience.member.1=api%3A%2F%2FAzureADTokenExchange&SigningAlgorithm=RS256\
         &DurationSeconds=300"
    );
    let own = json!({"source": "aws_sts", "cluster": "aws", "region": "cn-north-1", "authority": "sts.cn-north-1.amazonaws.com.cn"});
    assert_eq!(one(own).call(None).authority, "sts.cn-north-1.amazonaws.com.cn");
}

#[test]
fn the_token_of_aws_sts_is_an_element_of_its_answer() {
    let xml = |token: &str| format!("<R xmlns=\"x\"><S><WebIdentityToken>{token}</WebIdentityToken></S></R>");
    assert_eq!(aws().read(answer(200, &xml(&token())), None, NOW).unwrap().expose(), token());
    for (body, code) in [
        (xml("opaque"), Code::AssertionMalformed),
        ("<html>Sign in</html>".to_owned(), Code::SourceReplyInvalid),
        ("<WebIdentityToken>ey".to_owned(), Code::SourceReplyInvalid),
        (String::new(), Code::SourceReplyInvalid),
        (format!("{}{}", " ".repeat(64 * 1024), xml(&token())), Code::SourceReplyInvalid),
    ] {
        assert_eq!(problem(&aws(), answer(200, &body)).code, code, "{body:.40}");
    }
}

#[test]
fn an_error_of_aws_is_judged_by_its_code_and_quoted_without_its_xml() {
    for (status, aws_code, code, attempts) in [
        (400, "Throttling", Code::AssertionUnavailable, 3),
        (403, "MissingAuthenticationToken", Code::SourceNotReady, 3),
        (403, "ExpiredToken", Code::SourceNotReady, 3),
        (403, "AccessDenied", Code::SourceRefused, 1),
        (403, "OutboundWebIdentityFederationDisabledException", Code::SourceRefused, 1),
        (503, "ServiceUnavailable", Code::AssertionUnavailable, 3),
    ] {
        let body = format!(
            "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>{aws_code}</Code><Message>Why.</Message></Error></ErrorResponse>"
        );
        let found = problem(&aws(), answer(status, &body));
        assert!(found.code == code && found.detail.contains(&format!("{status}")), "{found:?}");
        assert!(found.detail.contains(&format!("\"{aws_code}: Why.\"")), "{}", found.detail);
        assert_eq!(aws().pause_before_retry(&found, 1, &mut || 0).is_some(), attempts > 1, "{aws_code}");
    }
    assert!(problem(&aws(), answer(403, "<html>")).detail.contains("an HTML page"));
}
