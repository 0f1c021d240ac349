//! Tests of App Service's endpoint: its secret, its versions and its replies.

use super::*;

#[test]
fn app_service_answers_only_requests_with_the_secret() {
    let current = format!("api-version=2019-08-01&resource=https://vault.azure.net&client_id={ORDERS}");
    let first = format!("api-version=2017-09-01&resource=https://vault.azure.net&clientid={ORDERS}");
    for (query, header) in [(&current, "x-identity-header"), (&first, "secret")] {
        let right = app_service(query).header(header, SECRET.as_bytes());
        assert_eq!(outcome(&right), "orders https://vault.azure.net/.default");
        for wrong in ["", "0f8e3b7", "0f8e3b7a0", "0F8E3B7A"] {
            assert_eq!(
                outcome(&app_service(query).header(header, wrong.as_bytes())),
                format!(
                    r#"401 {{"statusCode":401,"message":"the header {header} is missing or wrong. Set the app's IDENTITY_HEADER (MSI_SECRET) to that of the proxy."}}"#
                )
            );
        }
        // Each version has its own header, and `Metadata: true` does not replace it.
        let other = if header == "secret" { "x-identity-header" } else { "secret" };
        let request = app_service(query).header(other, SECRET.as_bytes()).header("metadata", b"true");
        assert!(outcome(&request).starts_with("401 "));
        assert!(outcome(&right.header(":method", b"POST")).starts_with(r#"405 {"statusCode":405,"#));
    }
    let request = Sent::get("127.0.0.1", &format!("/msi/token?{current}"))
        .header("x-identity-header", SECRET.as_bytes())
        .to("10.0.0.7:15091");
    assert!(outcome(&request).starts_with("403 "));
}

#[test]
fn app_service_accepts_known_versions_only() {
    let ask = |query: &str| {
        let request = app_service(query).header("x-identity-header", SECRET.as_bytes());
        outcome(&request.header("secret", SECRET.as_bytes()))
    };
    for version in ["", "api-version=2018-02-01&", "api-version=2017-09-02&", "api-version=&"] {
        assert!(ask(&format!("{version}resource=x&client_id={REPORTS}")).starts_with("400 "), "{version}");
    }
    assert_eq!(ask(&format!("API-Version=2019-08-01&resource=x&client_id={REPORTS}")), "reports x/.default");
    let twice = format!("api-version=2019-08-01&api-version=2017-09-01&resource=x&client_id={REPORTS}");
    assert!(ask(&twice).starts_with("400 "));
    assert_eq!(outcome(&local("127.0.0.1", "/msi/tokens").header("metadata", b"true")).split(' ').next(), Some("403"));
}

#[test]
fn app_service_replies_have_the_format_of_each_version() {
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
    // Only the first version omits the client id, if the request does not contain it.
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
fn a_missing_secret_variable_is_named_in_the_reply() {
    let text = r#"{"managed_identity": {"app_service": {"secret_from_env": "SECRET"}}}"#;
    for empty in [None, Some(String::new())] {
        let variable = |name: &str| if name == "SECRET" { empty.clone() } else { variable(name) };
        let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
        let answer = describe(decide(
            &policy,
            &app_service("api-version=2019-08-01&resource=x").header("x-identity-header", b""),
        ));
        assert!(answer.starts_with(r#"400 {"statusCode":400,"message":"SECRET is not set in the proxy"#), "{answer}");
    }
}
