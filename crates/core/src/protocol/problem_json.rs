//! Problems as `application/problem+json` (RFC 9457), and as one line for gRPC clients.

use super::with_retry_after;
use crate::http::Reply;
use crate::json::ObjectWriter;
use crate::problem::Problem;
use crate::untrusted::Guid;

/// The reply as `application/problem+json` (RFC 9457, section 3) with extension members, and with this HTTP status.
pub(crate) fn reply(problem: &Problem, status: u16) -> Reply {
    let mut body = ObjectWriter::new();
    body.text("type", &["urn:entra-exchange:problem:", problem.code.as_str()].concat())
        .text("title", problem.code.title())
        .number("status", status.into())
        .text("detail", &problem.detail)
        .text("code", problem.code.as_str())
        .text("remedy", &problem.remedy)
        .some_text("identity", problem.identity.as_deref())
        .some_text("scope", problem.scope.as_deref())
        .some_text("aadsts", problem.aadsts().as_deref())
        .some_text("trace_id", problem.entra.trace_id.as_ref().map(Guid::as_str))
        .some_text("correlation_id", problem.entra.correlation_id.as_ref().map(Guid::as_str));
    with_retry_after(problem, Reply::json(status, "application/problem+json", body))
}

/// The reply to a gRPC client. Envoy puts the whole body of a local reply into `grpc-message`.
pub(super) fn grpc_reply(problem: &Problem) -> Reply {
    let text = format!("{} ({}): {}", problem.detail, problem.code.as_str(), problem.remedy);
    let reply = Reply {
        status: problem.code.status(),
        headers: vec![("content-type", "text/plain".to_owned()), ("cache-control", "no-store".to_owned())],
        body: text.replace(char::is_control, " ").into_bytes(),
    };
    with_retry_after(problem, reply)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Protocol;
    use super::*;
    use crate::problem::{Code, EntraDiagnosis};
    use crate::request::RequestView;
    use crate::request::tests::Sent;
    use crate::untrusted::OAuthError;

    fn reply(problem: &Problem) -> Reply {
        Protocol::ProblemJson.problem_reply(problem)
    }

    #[test]
    fn a_problem_is_rendered_as_rfc_9457_with_all_known_members() {
        let mut problem = Problem::new(Code::EntraRefused, "AADSTS700213: no match", "Compare the subject.")
            .about("payments", "https://vault.azure.net/.default")
            .retry_after(Duration::from_millis(1200));
        problem.entra = EntraDiagnosis {
            error: OAuthError::parse("invalid_client"),
            aadsts: Some(700213),
            trace_id: Guid::parse("11111111-aaaa-4aaa-8aaa-111111111111"),
            correlation_id: Guid::parse("22222222-bbbb-4bbb-8bbb-222222222222"),
        };
        let reply = reply(&problem);
        assert_eq!(reply.status, 502);
        assert_eq!(
            reply.headers,
            vec![
                ("content-type", "application/problem+json".to_owned()),
                ("cache-control", "no-store".to_owned()),
                ("retry-after", "2".to_owned()),
            ]
        );
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            concat!(
                r#"{"type":"urn:entra-exchange:problem:entra_refused","title":"Entra refused the exchange","status":502,"#,
                r#""detail":"AADSTS700213: no match","code":"entra_refused","remedy":"Compare the subject.","#,
                r#""identity":"payments","scope":"https://vault.azure.net/.default","aadsts":"AADSTS700213","#,
                r#""trace_id":"11111111-aaaa-4aaa-8aaa-111111111111","correlation_id":"22222222-bbbb-4bbb-8bbb-222222222222"}"#
            )
        );
    }

    #[test]
    fn unknown_members_are_omitted() {
        let reply = reply(&Problem::new(Code::TlsClustersMissing, "d", "r"));
        assert_eq!(reply.status, 403);
        let body = String::from_utf8(reply.body).unwrap();
        assert!(!body.contains("null") && !body.contains("identity"), "{body}");
        assert!(reply.headers.iter().all(|(name, _)| *name != "retry-after"));
    }

    #[test]
    fn a_grpc_client_gets_one_line_of_plain_text() {
        let problem =
            Problem::new(Code::TlsClustersMissing, "it says\nnothing", "Say it.").retry_after(Duration::from_secs(1));
        let reply_to = |sent: &Sent| Protocol::of_client(&RequestView::new(sent)).problem_reply(&problem);
        let grpc = |kind: &str| reply_to(&Sent::get("a", "/").header("content-type", kind.as_bytes()));
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
            let reply = grpc(kind);
            assert_eq!(String::from_utf8(reply.body).unwrap(), "it says nothing (tls_clusters_missing): Say it.");
            assert_eq!((reply.status, reply.headers.len()), (403, 3));
        }
        assert!(grpc("application/json") == reply(&problem));
        assert!(reply_to(&Sent::get("a", "/")) == reply(&problem));
    }
}
