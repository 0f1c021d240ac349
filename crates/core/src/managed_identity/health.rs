//! The reply to a readiness probe.

use super::guard;
use crate::broker::ReadinessStatus;
use crate::http::Reply;
use crate::path;
use crate::problem::Problem;
use crate::protocol::problem_json;
use crate::request::RequestView;

/// The HTTP status of a pod that is not ready.
const NOT_READY: u16 = 503;

/// The reply to a request for `/readyz`, given the readiness of the identities. A caller outside the pod gets only the code, because
/// the problem's detail names tenant, issuer and subject. A caller within the pod gets every identity with `?verbose`.
pub fn readiness_reply(status: &ReadinessStatus, request: &RequestView<'_>) -> Reply {
    let local = guard::is_local(request);
    match status.outcome() {
        _ if local && is_verbose(request) => status.verbose_reply(NOT_READY),
        Ok(()) => Reply::ok(),
        Err(problem) if local => problem_json::reply(problem, NOT_READY),
        Err(problem) => {
            let public = Problem::new(
                problem.code,
                "The pod is not ready. Details are given only to callers within the pod.",
                "Send the same request from within the pod, or read the lines with event=exchange in Envoy's log.",
            );
            problem_json::reply(&Problem { retry_after: problem.retry_after, ..public }, NOT_READY)
        }
    }
}

fn is_verbose(request: &RequestView<'_>) -> bool {
    let target = request.target().unwrap_or_default();
    let (_, query) = path::split(target);
    form_urlencoded::parse(query).any(|(name, _)| name == "verbose")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use crate::problem::Code;
    use crate::request::tests::Sent;
    use serde_json::{Value, json};

    fn probe(path: &str, address: &str) -> (u16, String) {
        let mut problem = Problem::new(Code::EntraRefused, "issuer https://oidc.example subject sa/api", "tenant 1111")
            .about("payments", "api://payments/.default");
        problem.entra.aadsts = Some(700_213);
        let status = ReadinessStatus::of([("orders".to_owned(), Ok(())), ("payments".to_owned(), Err(problem))].into());
        let request = Sent::get("h", path).to(address);
        let reply = readiness_reply(&status, &RequestView::new(&request));
        (reply.status, String::from_utf8(reply.body).unwrap())
    }

    #[test]
    fn a_caller_outside_the_pod_gets_only_the_code() {
        for path in ["/readyz", "/readyz?verbose"] {
            for address in ["10.0.0.7:15003", "[fd00::7]:15003", "", "127.0.0.1"] {
                let (status, body) = probe(path, address);
                assert!(status == 503 && body.contains(r#""code":"entra_refused""#), "{address}: {body}");
                for detail in ["oidc.example", "sa/api", "1111", "payments", "orders", "700213"] {
                    assert!(!body.contains(detail), "{address}: {detail} in {body}");
                }
            }
            for address in ["127.0.0.1:15003", "[::1]:15003", "[::ffff:127.0.0.1]:15003", "169.254.169.254:80"] {
                let (status, body) = probe(path, address);
                assert!(status == 503 && body.contains("sa/api") && body.contains("AADSTS700213"), "{address}: {body}");
            }
        }
    }

    #[test]
    fn readiness_is_measured_for_each_identity_and_a_reply_has_the_problem_and_when_to_retry() {
        let problem = Problem::new(Code::EntraUnavailable, "d", "r").retry_after(std::time::Duration::from_secs(7));
        let status =
            ReadinessStatus::of([("orders".to_owned(), Err(problem.clone())), ("a".to_owned(), Ok(()))].into());
        let measured: Vec<_> = status.measurements().collect();
        assert_eq!(measured, [("orders", false), ("a", true)].map(|(name, is_ready)| metrics::ready(name, is_ready)));
        let reply = |address| readiness_reply(&status, &RequestView::new(&Sent::get("h", "/readyz").to(address)));
        assert!(reply("127.0.0.1:1") == problem_json::reply(&problem, NOT_READY));
        assert!(reply("10.0.0.7:1").headers.contains(&("retry-after", "7".to_owned())));
    }

    #[test]
    fn a_caller_within_the_pod_gets_every_identity_with_verbose() {
        let (status, body) = probe("/readyz?a=b&verbose=", "127.0.0.1:15003");
        let expected = json!({"ready": false, "identities": [
            {"identity": "orders", "ready": true},
            {"identity": "payments", "ready": false, "code": "entra_refused", "aadsts": "AADSTS700213",
                "detail": "issuer https://oidc.example subject sa/api", "remedy": "tenant 1111"},
        ]});
        assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (503, expected));
        let ready = ReadinessStatus::of([("orders".to_owned(), Ok(()))].into());
        let request = Sent::get("h", "/readyz?verbose").to("127.0.0.1:1");
        let reply = readiness_reply(&ready, &RequestView::new(&request));
        assert_eq!(
            (reply.status, reply.body),
            (200, br#"{"ready":true,"identities":[{"identity":"orders","ready":true}]}"#.to_vec())
        );
    }
}
