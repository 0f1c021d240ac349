//! Reads a source that is asked by one HTTP call: the general form, `source: http`, or the form that the row of a named source gives.

use std::time::Duration;

use super::fields::{AssertionFields, CallFields, ExpectFields, HttpFields, ResponseFields, SpiffeFields};
use super::form;
use super::request::Reading;
use crate::assertion::{BACK_OFF, Expected, Expiry, Format, HttpSource, NAMED, SPIFFE};
use crate::config::object::{Field, Object};
use crate::config::reader::Mistakes;
use crate::config::shapes::Text;
use crate::config::tree::Node;

/// Reads a source of this kind, without its id and its input. `is_input` is whether another source gets its token.
pub(super) fn read(
    kind: &'static str,
    object: &Object<'_, '_, AssertionFields>,
    is_input: bool,
    reading: &mut Reading<'_>,
    mistakes: &mut Mistakes,
) -> Option<HttpSource> {
    let row = NAMED.iter().find(|row| row.kind == kind);
    let form = row.map(|row| form::of(row, object, reading.audience(), mistakes));
    let fields = match &form {
        Some(Node::Object(fields)) => Object::of(object.at(), fields),
        _ => object.part(),
    };
    let source = read_general(kind, &fields, is_input, reading, mistakes)?;
    let expected = Expected { entra_issued: row.is_some_and(|row| row.entra_issued), ..source.expected };
    let source = HttpSource { expected, ..source };
    if kind != SPIFFE {
        return Some(source);
    }
    let fields = object.part::<SpiffeFields>();
    let (id, hint) = (fields.spiffe_id(), fields.hint());
    Some(source.fetching_svid(id.read(mistakes), hint.read(mistakes)))
}

/// Reads the fields of the general form.
fn read_general(
    kind: &'static str,
    fields: &Object<'_, '_, HttpFields>,
    is_input: bool,
    reading: &mut Reading<'_>,
    mistakes: &mut Mistakes,
) -> Option<HttpSource> {
    let call = fields.part::<CallFields>();
    let cluster = call.cluster();
    let cluster = cluster.read(mistakes).unwrap_or_default();
    let (format, expiry) = read_response(fields.response().read(mistakes), mistakes);
    let statuses = fields.not_ready();
    let statuses = statuses.read(mistakes).unwrap_or_default();
    let not_ready = statuses.iter().filter_map(|status| u16::try_from(status.read(mistakes)?).ok()).collect();
    let expect = call.expect();
    let expected = expect.read(mistakes).map(|expect| read_expected(&expect, mistakes)).unwrap_or_default();
    let audience = call.audience().read(mistakes).or((!is_input).then_some(reading.audience()));
    let expected = Expected {
        made_on_demand: true,
        is_input,
        audience: expected.audience.or(audience.map(str::to_owned)),
        ..expected
    };
    let attempts = call.attempts().read(mistakes).and_then(|attempts| u32::try_from(attempts).ok());
    let timeout = call.timeout().read(mistakes);
    let reuse = fields.reuse().read(mistakes);
    let back_off = call.back_off().read(mistakes);
    // The last one, because without it nothing is read.
    let request = reading.request(fields, cluster, mistakes)?;
    Some(HttpSource {
        kind,
        id: String::new(),
        request,
        format,
        expiry,
        expected,
        timeout: timeout.unwrap_or(Duration::from_secs(5)),
        attempts: attempts.unwrap_or(3),
        back_off: back_off.unwrap_or(BACK_OFF),
        not_ready,
        reuse: reuse.unwrap_or(Duration::from_secs(300)),
    })
}

/// Reads what a token must be.
pub(super) fn read_expected(expect: &Object<'_, '_, ExpectFields>, mistakes: &mut Mistakes) -> Expected {
    let mut claim = |field: Field<'_, '_, Text>| field.read(mistakes).map(str::to_owned);
    let (issuer, subject, audience) = (claim(expect.iss()), claim(expect.sub()), claim(expect.aud()));
    Expected { algorithm: claim(expect.alg()), issuer, subject, audience, ..Expected::default() }
}

fn read_response(
    response: Option<Object<'_, '_, ResponseFields>>,
    mistakes: &mut Mistakes,
) -> (Format, Option<Expiry>) {
    let Some(response) = response else { return (Format::Text, None) };
    let (token, field) = (response.token(), response.expiry());
    let xml = response.xml();
    if xml.is_set() && (token.is_set() || field.is_set()) {
        xml.mistake("is set beside token or expiry, which are for JSON: remove one of the two", mistakes);
    }
    let format = match xml.read(mistakes) {
        Some(name) => Format::Xml(name.to_owned()),
        None => pointer(&token, mistakes).map_or(Format::Text, Format::Json),
    };
    let expiry = field.read(mistakes).and_then(|expiry| {
        let seconds = pointer(&expiry.seconds(), mistakes).map(Expiry::Seconds);
        let time = pointer(&expiry.time(), mistakes).map(Expiry::Time);
        if seconds.is_some() == time.is_some() || !token.is_set() {
            field.mistake("is not valid: write seconds or time, and set token", mistakes);
        }
        seconds.or(time)
    });
    (format, expiry)
}

fn pointer(field: &Field<'_, '_, Text>, mistakes: &mut Mistakes) -> Option<String> {
    let text = field.read(mistakes)?;
    let is_escaped = |part: &str| part.starts_with(['0', '1']);
    if !text.starts_with('/') || !text.split('~').skip(1).all(is_escaped) {
        let expected = "write a JSON pointer: the names and indices on the way to the value, each after a slash, with ~1 for / and ~0 for ~";
        field.mistake(format!("{text:?} is not valid: {expected}"), mistakes);
    }
    Some(text.to_owned())
}
