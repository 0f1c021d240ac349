use fake_http::Request;
use fake_sources::{Google, Source};

use crate::{AUDIENCE_PARAMETER, exchange, is_strict, now, set};

fn request(google: &Google) -> Request {
    Request::new("GET", &format!("{}?{AUDIENCE_PARAMETER}&format=full", google.target()))
        .with_header("metadata-flavor", "Google")
}

#[test]
fn only_a_direct_request_with_the_flavor_and_an_audience_is_accepted() {
    let google = Google::new();
    is_strict(
        &google,
        &request(&google),
        &[
            ("no flavor", 403, "Metadata-Flavor", &|request| set(request, "metadata-flavor", "")),
            ("a forwarded request", 403, "X-Forwarded-For", &|request| set(request, "x-forwarded-for", "10.0.0.1")),
            ("no audience", 400, "non-empty audience parameter required", &|request| {
                request.target = google.target().to_owned();
            }),
            ("an empty audience", 400, "non-empty audience parameter required", &|request| {
                request.target = format!("{}?audience=", google.target());
            }),
            ("an unknown format", 400, "format", &|request| request.target += "x"),
            ("another account", 404, "the path is", &|request| {
                request.target = request.target.replace("default", "other")
            }),
            ("a POST", 405, "not GET", &|request| request.method = "POST".to_owned()),
        ],
    );
}

#[test]
fn the_body_is_the_token_alone_and_entra_accepts_it() {
    let google = Google::new();
    let response = google.respond(&request(&google), now());
    assert!(response.headers.contains(&("metadata-flavor".to_owned(), "Google".to_owned())));
    assert!(response.headers.contains(&("content-type".to_owned(), "text/html".to_owned())));
    let token = String::from_utf8(response.body).expect("text");
    let claims = fake_entra::claims(&token).expect("a JWT");
    assert_eq!((&claims["azp"], &claims["email_verified"]), (&claims["sub"], &true.into()));
    assert_eq!(exchange(&google, &token, now()), "issued");
}
