use fake_http::Request;
use fake_sources::{GitHub, Source, SubjectForm};

use crate::{AUDIENCE_PARAMETER, exchange, is_strict, json, now, set};

fn request(github: &GitHub) -> Request {
    Request::new("GET", &format!("{}&{AUDIENCE_PARAMETER}", github.target()))
        .with_header("authorization", &format!("Bearer {}", github.bearer()))
}

#[test]
fn only_the_jobs_url_with_an_audience_and_the_jobs_bearer_token_is_accepted() {
    let github = GitHub::new();
    let target = github.target();
    is_strict(
        &github,
        &request(&github),
        &[
            ("no audience", 400, "audience is missing", &|request| request.target = target.clone()),
            ("a second question mark", 400, "audience is missing", &|request| {
                request.target = format!("{target}?{AUDIENCE_PARAMETER}");
            }),
            ("no query", 400, "does not begin with", &|request| {
                request.target = format!("{}?{AUDIENCE_PARAMETER}", request.path());
            }),
            ("merged slashes", 404, "normalized", &|request| request.target = request.target.replace("//", "/")),
            ("a decoded path", 404, "normalized", &|request| request.target = request.target.replace("%2D", "-")),
            ("a path in lower case", 404, "normalized", &|request| {
                request.target = request.target.replace("%2D", "%2d")
            }),
            ("an audience twice", 400, "occurs twice", &|request| request.target += "&audience=x"),
            ("no bearer token", 401, "bearer", &|request| set(request, "authorization", "")),
            ("another bearer token", 401, "bearer", &|request| set(request, "authorization", "Bearer x")),
            ("a POST", 405, "not GET", &|request| request.method = "POST".to_owned()),
        ],
    );
}

#[test]
fn entra_accepts_its_tokens_with_both_forms_of_the_subject() {
    for (form, subject) in [
        (SubjectForm::Names, "repo:contoso/payments:environment:production"),
        (SubjectForm::NamesAndIds, "repo:contoso@6844498/payments@1296269:environment:production"),
    ] {
        let github = GitHub::new().with_subject_form(form);
        let body = json(&github.respond(&request(&github), now()));
        let token = body["value"].as_str().expect("a token");
        assert_eq!(fake_entra::claims(token).expect("a JWT")["sub"], subject);
        assert_eq!(exchange(&github, token, now()), "issued");
    }
}

#[test]
fn a_pending_job_and_an_outage_are_over_at_the_next_request() {
    let github = GitHub::new();
    github.add_faults([GitHub::pending(), GitHub::unavailable()]);
    let statuses: Vec<u16> = (0..3).map(|_| github.respond(&request(&github), now()).status).collect();
    assert_eq!(statuses, [403, 503, 200]);
}

#[test]
fn the_variables_contain_the_url_and_the_bearer_token() {
    let github = GitHub::new();
    let [(_, url), (_, bearer)] = github.variables("127.0.0.1:8443");
    assert_eq!(url, format!("https://127.0.0.1:8443{}", github.target()));
    assert!(url.contains("//idtoken/") && url.ends_with("?api-version=2.0"), "{url}");
    assert_eq!(bearer, github.bearer());
}
