//! The SPIFFE Workload API: the unary gRPC call `FetchJWTSVID`.
//!
//! It is an HTTP call with gRPC's frame around its message (github.com/grpc/grpc, "gRPC over HTTP2"): Envoy's host call for gRPC would
//! need two more callbacks and capabilities, and gives the status of a failed call without its text. The messages have five fields, all of
//! them strings or messages, so they are written and read here (protobuf.dev, "Encoding").

use super::format::Format;
use super::{Body, HttpSource};
use crate::http::GrpcStatus;
use crate::problem::{Code, Problem};
use crate::quote::MAX_QUOTE;
use crate::untrusted::UntrustedText;

/// The kind of the source, as in the configuration.
pub(crate) const KIND: &str = "spiffe_workload_api";

/// The length of the part of a frame before its message: a flag and the message's length.
const PREFIX: usize = 5;

impl HttpSource {
    /// The same source, which asks for the JWT-SVID of this SPIFFE ID, and takes the one with this hint.
    pub(crate) fn fetching_svid(mut self, spiffe_id: Option<&str>, hint: Option<&str>) -> Self {
        self.request.body = Body::Bytes(request(self.expected.audience.as_deref().unwrap_or_default(), spiffe_id));
        self.format = Format::JwtSvid { hint: hint.map(str::to_owned) };
        self.expected.subject = self.expected.subject.or(spiffe_id.map(str::to_owned));
        self
    }
}

/// A frame with the message `JWTSVIDRequest`. The tag of its field 1, the audience, is 0x0a, and that of its field 2, the SPIFFE ID, is 0x12.
fn request(audience: &str, spiffe_id: Option<&str>) -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, text) in [(0x0a, Some(audience)), (0x12, spiffe_id)] {
        let Some(text) = text else { continue };
        message.push(tag);
        let mut length = text.len();
        while length >= 0x80 {
            let [lowest, ..] = length.to_le_bytes();
            message.push(lowest | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(text.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// The token of a frame with the message `JWTSVIDResponse` (1 SVIDs): that of the SVID with this hint, or of the first one. An SVID has the
/// fields 1 SPIFFE ID, 2 token, 3 hint.
///
/// # Errors
/// What the answer is, to continue a sentence about it.
pub(super) fn svid<'a>(frame: &'a [u8], hint: Option<&str>) -> Result<&'a [u8], String> {
    let torn = || "is not a complete gRPC message".to_owned();
    let (prefix, message) = frame.split_at_checked(PREFIX).ok_or_else(torn)?;
    if prefix.first() != Some(&0) {
        return Err("is a compressed gRPC message, which was not requested".to_owned());
    }
    if prefix.get(1..) != u32::try_from(message.len()).ok().map(u32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice) {
        return Err(torn());
    }
    let (mut rest, mut others) = (message, Vec::new());
    while !rest.is_empty() {
        let (number, mut svid) = field(&mut rest).ok_or_else(torn)?;
        if number != 1 {
            continue;
        }
        let (mut token, mut own_hint): (&[u8], &[u8]) = (&[], &[]);
        while !svid.is_empty() {
            match field(&mut svid).ok_or_else(torn)? {
                (2, content) => token = content,
                (3, content) => own_hint = content,
                _ => {}
            }
        }
        if hint.is_none_or(|hint| hint.as_bytes() == own_hint) {
            return Ok(token);
        }
        others.push(UntrustedText::new(&String::from_utf8_lossy(own_hint)).into_string());
    }
    Err(match hint {
        Some(hint) => {
            format!("has no identity with the hint {hint:?}, but those with the hints {:?}", others.join(", "))
        }
        None => "has no identity".to_owned(),
    })
}

/// Takes the next field of a message: its number, and its content if that is a string, bytes or a message.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let tag = varint(rest)?;
    let length = match tag & 7 {
        0 => varint(rest).map(|_| 0)?,
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((tag >> 3, content))
}

/// Takes a number in the form that has seven bits in each byte.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The problem of a call that failed with this status (SPIFFE Workload Endpoint, section 6).
pub(super) fn refusal(source: &str, status: &GrpcStatus) -> Problem {
    let message = UntrustedText::without(&String::from_utf8_lossy(&status.message), "").shortened(MAX_QUOTE);
    let (code, remedy) = match status.code {
        7 => (
            Code::SourceNotReady,
            "Register an entry for the process of Envoy, with selectors of its pod or its user, not of the app's container. A new entry \
             reaches the agent after some seconds.",
        ),
        4 | 8 | 14 => (
            Code::AssertionUnavailable,
            "Check that the SPIFFE agent runs, and that its socket is mounted into the container that runs Envoy and may be opened by \
             Envoy's user.",
        ),
        _ => (
            Code::SourceRefused,
            "Check that the cluster leads to a SPIFFE Workload API, removes no header, and uses HTTP/2; and check audience and spiffe_id.",
        ),
    };
    Problem::new(code, format!("{source} answered with the gRPC status {}: {message:?}", status.code), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with a string or a message.
    fn of(number: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 0x80);
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        [&[0], u32::try_from(message.len()).unwrap().to_be_bytes().as_slice(), message].concat()
    }

    fn svid_of(id: &[u8], token: &[u8], hint: &[u8]) -> Vec<u8> {
        of(1, &[of(1, id), of(2, token), of(3, hint)].concat())
    }

    #[test]
    fn a_number_has_seven_bits_in_each_byte_the_lowest_first() {
        for (bytes, number) in [
            (b"\x7f".as_slice(), Some(127)),
            (b"\xac\x02", Some(300)),
            (b"\xd8\x80\x01", Some(16_472)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Some(u64::MAX)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
            (b"\xac", None),
        ] {
            assert_eq!(varint(&mut &*bytes), number, "{bytes:?}");
        }
    }

    #[test]
    fn a_request_has_the_audience_and_the_spiffe_id_in_a_frame() {
        let expected = [b"\0\0\0\0\x1c\x0a\x1a".as_slice(), b"api://AzureADTokenExchange"].concat();
        assert_eq!(request("api://AzureADTokenExchange", None), expected);
        assert_eq!(request("a", Some("spiffe://e/b")), b"\0\0\0\0\x11\x0a\x01a\x12\x0cspiffe://e/b");
        let long = request(&"a".repeat(300), None);
        assert_eq!(long[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
        let longer = request(&"a".repeat(16_472), None);
        assert_eq!(longer[..9], *b"\0\0\0\x40\x5c\x0a\xd8\x80\x01");
    }

    #[test]
    fn the_first_identity_is_taken_or_the_one_with_the_hint() {
        let answer = frame(&[svid_of(b"i", b"e.y.J", b"internal"), svid_of(b"e", b"f.z.K", b"external")].concat());
        assert_eq!(svid(&answer, None), Ok(b"e.y.J".as_slice()));
        assert_eq!(svid(&answer, Some("external")), Ok(b"f.z.K".as_slice()));
        let missing = svid(&answer, Some("other")).unwrap_err();
        assert!(missing.contains("\"other\"") && missing.contains("\"internal, external\""), "{missing}");
    }

    #[test]
    fn a_failed_call_has_a_problem_for_whoever_must_act() {
        for (code, expected, remedy) in [
            (7, Code::SourceNotReady, "Register an entry"),
            (4, Code::AssertionUnavailable, "Check that the SPIFFE agent runs"),
            (8, Code::AssertionUnavailable, "Check that the SPIFFE agent runs"),
            (14, Code::AssertionUnavailable, "Check that the SPIFFE agent runs"),
            (3, Code::SourceRefused, "Check that the cluster leads to a SPIFFE Workload API"),
            (12, Code::SourceRefused, "Check that the cluster leads to a SPIFFE Workload API"),
        ] {
            let problem = refusal("the source", &GrpcStatus { code, message: b"no identity".to_vec() });
            assert_eq!(problem.detail, format!("the source answered with the gRPC status {code}: \"no identity\""));
            assert!(problem.code == expected && problem.remedy.starts_with(remedy), "{problem:?}");
        }
    }

    #[test]
    fn unknown_fields_of_every_kind_are_skipped() {
        let unknown =
            [b"\x38\x96\x01\x38\x80\x01".as_slice(), b"\x41\0\0\0\0\0\0\0\0", &of(9, b"x"), b"\x55\0\0\0\0"].concat();
        let inner = [unknown.clone(), of(2, b"e.y.J")].concat();
        assert_eq!(svid(&frame(&[unknown, of(1, &inner)].concat()), None), Ok(b"e.y.J".as_slice()));
    }

    #[test]
    fn no_answer_that_is_torn_or_has_another_form_is_accepted() {
        let whole = frame(&svid_of(b"i", b"e.y.J", b""));
        for length in 0..whole.len() {
            assert!(svid(&whole[..length], None).is_err(), "{length}");
        }
        let torn = "is not a complete gRPC message";
        for (answer, expected) in [
            (frame(b""), "has no identity"),
            (frame(b"\x0a\x05ab"), torn),
            (frame(b"\x0b"), torn),
            (frame(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), torn),
            (frame(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), torn),
            ([whole.as_slice(), b"x"].concat(), torn),
            (b"\x01\0\0\0\0".to_vec(), "compressed"),
        ] {
            let found = svid(&answer, None).unwrap_err();
            assert!(found.contains(expected), "{answer:x?}: {found}");
        }
    }
}
