//! Reads the general form of a source, and what it needs from the environment.

use std::time::Duration;

use super::fields::{AssertionFields, CallFields, ExpectFields, HttpFields, RequestFields, ResponseFields};
use super::form;
use crate::assertion::{
    BACK_OFF, Body, Expected, Expiry, Format, HttpSource, MAX_URL, NAMED, Request, SPIFFE, Target, Text, basic, encode,
};
use crate::config::object::{Field, Object};
use crate::config::reader::{Mistakes, Value};
use crate::config::shapes::{List, Text as TextShape, Texts};
use crate::config::variables::{combined, read_variable};
use crate::problem::{Code, Problem};
use crate::secret::{Secret, Secrets};
use crate::untrusted::UntrustedText;

const FORM: &str = "application/x-www-form-urlencoded";

const SET_VARIABLE: &str = "Set the variable in the container that runs Envoy, list it in vm_config.environment_variables.host_env_keys, \
    and restart Envoy.";

/// What sources get from outside of their fields.
pub(super) struct Environment<'e> {
    pub(super) variable: &'e dyn Fn(&str) -> Option<String>,
    /// The audience that Entra expects.
    pub(super) audience: &'static str,
}

/// A source that is being read.
pub(super) struct Reading<'e> {
    environment: &'e Environment<'e>,
    /// Whether another source gets the token.
    is_input: bool,
    /// The problems with environment variables.
    problems: Vec<Problem>,
    secrets: Secrets,
    /// The field that names the input, and the name.
    pub(super) input: Option<(String, String)>,
    headers: Vec<(String, Text)>,
    form: Vec<(String, Text)>,
}

impl<'e> Reading<'e> {
    pub(super) fn new(environment: &'e Environment<'e>, is_input: bool) -> Self {
        Self {
            environment,
            is_input,
            problems: Vec::new(),
            secrets: Secrets::default(),
            input: None,
            headers: Vec::new(),
            form: Vec::new(),
        }
    }

    /// The problem with the environment, if there is one.
    pub(super) fn problem(&self) -> Option<Problem> {
        (!self.problems.is_empty()).then(|| combined(self.problems.iter().cloned()))
    }

    /// Reads a source of this kind, without its id and its input.
    pub(super) fn read(
        &mut self,
        kind: &'static str,
        object: &Object<'_, '_, AssertionFields>,
        mistakes: &mut Mistakes,
    ) -> Option<HttpSource> {
        let row = NAMED.iter().find(|row| row.kind == kind);
        let mut found = Mistakes::default();
        let form = form::of(row, object, self.environment.audience, &mut found);
        let fields = Object::read(Value { path: object.at(), node: &form }, &mut found)?;
        let mut source = self.source(kind, row.is_some_and(|row| row.entra_issued), &fields, &mut found);
        if kind == SPIFFE {
            let (id, hint) = (object.field::<TextShape>("spiffe_id"), object.field::<TextShape>("hint"));
            let (id, hint) = (id.read(&mut found), hint.read(&mut found));
            source = source.map(|source| source.fetching_svid(id, hint));
        }
        for mut mistake in found.0 {
            if row.is_some() {
                mistake.path = mistake.path.replacen(".request", "", 1);
            }
            mistakes.0.push(mistake);
        }
        source
    }

    fn source(
        &mut self,
        kind: &'static str,
        entra_issued: bool,
        fields: &Object<'_, '_, HttpFields>,
        mistakes: &mut Mistakes,
    ) -> Option<HttpSource> {
        let call = fields.part::<CallFields>();
        let cluster = call.cluster().required("the Envoy cluster that leads to the source", mistakes);
        let cluster = cluster.unwrap_or_default();
        let (format, expiry) = read_response(fields.response().read(mistakes), mistakes);
        let statuses = fields.not_ready();
        let statuses = statuses.read(mistakes).unwrap_or_default();
        let not_ready = statuses.iter().filter_map(|status| u16::try_from(status.read(mistakes)?).ok()).collect();
        let expect = call.expect();
        let expected = expect.read(mistakes).map(|expect| read_expected(&expect, mistakes)).unwrap_or_default();
        let audience = call.audience().read(mistakes).or((!self.is_input).then_some(self.environment.audience));
        let attempts = call.attempts().read(mistakes).and_then(|attempts| u32::try_from(attempts).ok());
        let timeout = call.timeout().read(mistakes).unwrap_or(Duration::from_secs(5));
        let reuse = fields.reuse().read(mistakes).unwrap_or(Duration::from_secs(300));
        let back_off = call.back_off().read(mistakes).unwrap_or(BACK_OFF);
        // The last one, because without it nothing is read.
        let field = fields.request();
        let request = field.required("the request, { path: … }", mistakes)?;
        let mut target = self.target(&request, cluster, mistakes);
        target.add_query(&request.query().read(mistakes).unwrap_or_default());
        if target.path.len() > MAX_URL {
            request.query().mistake(format!("makes a URL of more than {MAX_URL} bytes: shorten it"), mistakes);
        }
        self.headers(&request, mistakes);
        let body = self.body(&request, mistakes);
        let has_body = !matches!(&body, Body::Raw(text) if text.is_empty());
        let method = request.method().read(mistakes).unwrap_or(if has_body { "POST" } else { "GET" });
        Some(HttpSource {
            kind,
            id: String::new(),
            request: Request {
                cluster: cluster.to_owned(),
                method,
                target,
                headers: std::mem::take(&mut self.headers),
                body,
                secrets: std::mem::take(&mut self.secrets),
            },
            format,
            expiry,
            expected: Expected {
                made_on_demand: true,
                is_input: self.is_input,
                audience: expected.audience.or(audience.map(str::to_owned)),
                entra_issued,
                ..expected
            },
            timeout,
            attempts: attempts.unwrap_or(3),
            back_off,
            not_ready,
            reuse,
            input: None,
        })
    }

    fn target(&mut self, request: &Object<'_, '_, RequestFields>, cluster: &str, mistakes: &mut Mistakes) -> Target {
        let (path, url, hosts) = (request.path(), request.url_from_env(), request.allowed_hosts());
        let allowed = read_hosts(&hosts, mistakes);
        let authority = request.authority();
        let configured = authority.read(mistakes).unwrap_or(cluster);
        let Some(name) = url.read(mistakes) else {
            let text = path.required("the path, such as \"/token\"", mistakes).unwrap_or("/");
            let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !text.starts_with('/') || !is_visible || text.len() > MAX_URL {
                path.mistake(
                    format!("{text:?} is not valid: write a path of at most {MAX_URL} bytes, such as \"/token\""),
                    mistakes,
                );
            }
            return Target { authority: configured.to_ascii_lowercase(), path: text.to_owned() };
        };
        if path.is_set() || authority.is_set() {
            url.mistake("is set beside path or authority, which the URL contains: remove one of the two", mistakes);
        }
        if !hosts.is_set() {
            hosts.mistake("is missing: list the hosts that may get the request with its credentials", mistakes);
        }
        self.url(name, &allowed).unwrap_or_default()
    }

    fn headers(&mut self, request: &Object<'_, '_, RequestFields>, mistakes: &mut Mistakes) {
        let (plain, secret) = (request.headers(), request.headers_from_env());
        for (name, value) in plain.read(mistakes).unwrap_or_default() {
            if name.eq_ignore_ascii_case("authorization") {
                let message = "has a credential: name its variable in bearer_from_env, basic_auth or headers_from_env";
                plain.mistake(message, mistakes);
            }
            if value.bytes().any(|byte| byte.is_ascii_control()) {
                plain.mistake(format!("has a control character in {name:?}: remove it"), mistakes);
            }
            self.header(&plain, name, Some(Text::Plain(value.to_owned())), mistakes);
        }
        for (name, variable) in secret.read(mistakes).unwrap_or_default() {
            let value = self.secret(variable).map(Text::Secret);
            self.header(&secret, name, value, mistakes);
        }
        if let Some(secret) = request.bearer_from_env().read(mistakes).and_then(|name| self.secret(name)) {
            self.authorization(["Bearer ", secret.expose()].concat());
        }
        let basic_auth = request.basic_auth();
        if let Some(client) = basic_auth.read(mistakes) {
            let id = client.id().required("the client id", mistakes).unwrap_or_default();
            let name = client.secret_from_env().required("the name of the variable with the secret", mistakes);
            if let Some(secret) = name.and_then(|name| self.secret(name)) {
                self.authorization(basic(id, secret.expose()));
            }
        }
    }

    fn authorization(&mut self, value: String) {
        let value = Secret::new(value);
        self.secrets.push(value.clone());
        self.headers.push(("authorization".to_owned(), Text::Secret(value)));
    }

    fn header(&mut self, field: &Field<'_, '_, Texts>, name: &str, value: Option<Text>, mistakes: &mut Mistakes) {
        let name = name.to_ascii_lowercase();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let reserved = ["host", "content-length", "transfer-encoding", "connection"];
        if name.is_empty() || !name.bytes().all(fits) || reserved.contains(&name.as_str()) {
            field.mistake(
                format!("has {name:?}, which is not the name of a header that can be set: remove it"),
                mistakes,
            );
        }
        self.headers.extend(value.map(|value| (name, value)));
    }

    fn body(&mut self, request: &Object<'_, '_, RequestFields>, mistakes: &mut Mistakes) -> Body {
        let (form, secret, assertion) = (request.form(), request.form_from_env(), request.form_from_assertion());
        let is_form = form.is_set() || secret.is_set() || assertion.is_set();
        for (name, text) in form.read(mistakes).unwrap_or_default() {
            self.form.push((name.to_owned(), Text::Plain(text.to_owned())));
        }
        for (name, variable) in secret.read(mistakes).unwrap_or_default() {
            if let Some(value) = self.secret(variable) {
                self.form.push((name.to_owned(), Text::Secret(value)));
            }
        }
        for (name, input) in assertion.read(mistakes).unwrap_or_default() {
            self.form.push((name.to_owned(), Text::Input));
            // A field of a named source has the name of the parameter.
            let path = [&assertion.path().replacen(".request.form_from_assertion", "", 1), ".", name].concat();
            match &self.input {
                Some((_, other)) if other != input => {
                    mistakes.add(
                        &path,
                        format!("{input:?} is the second assertion in this request, beside {other:?}: remove one"),
                    );
                }
                _ => self.input = Some((path, input.to_owned())),
            }
        }
        let (body, json) = (request.body(), request.json());
        let mut text = body.read(mistakes).unwrap_or_default().to_owned();
        if let Some(object) = json.read(mistakes) {
            object.write_json(&mut text);
        }
        if body.is_set() && (is_form || json.is_set()) {
            body.mistake("is set beside a form or json: remove one of the two", mistakes);
        }
        if json.is_set() && is_form {
            json.mistake("is set beside a form: remove one of the two", mistakes);
        }
        let has_type = self.headers.iter().any(|(name, _)| name == "content-type");
        if (is_form || !text.is_empty()) && !has_type {
            let kind = if is_form { FORM } else { "application/json" };
            self.headers.push(("content-type".to_owned(), Text::Plain(kind.to_owned())));
        }
        if is_form { Body::Form(std::mem::take(&mut self.form)) } else { Body::Raw(text) }
    }

    /// Reads a secret from an environment variable. `None` if that is not possible, which is a problem.
    fn secret(&mut self, name: &str) -> Option<Secret> {
        let text = self.variable(name)?;
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            self.missing(name, "has a control character");
            return None;
        }
        // A service may repeat it as it is in a form or in a client's credentials.
        self.secrets.push(Secret::new(encode(&text)));
        let secret = Secret::new(text);
        self.secrets.push(secret.clone());
        Some(secret)
    }

    fn variable(&mut self, name: &str) -> Option<String> {
        match read_variable(name, self.environment.variable) {
            Ok(Some(text)) => return Some(text),
            Ok(None) => self.missing(name, "is not set"),
            Err(problem) => self.problems.push(problem),
        }
        None
    }

    fn missing(&mut self, name: &str, what: &str) {
        self.problems.push(Problem::new(Code::EnvVarMissing, [name, " ", what].concat(), SET_VARIABLE));
    }

    /// Reads a URL from an environment variable. It may have these hosts only: the request contains credentials.
    fn url(&mut self, name: &str, hosts: &[String]) -> Option<Target> {
        let text = self.variable(name)?;
        let Some(target) = Target::parse(&text).filter(|target| target.path.len() <= MAX_URL) else {
            self.missing(name, "is not an https URL of at most 2 KiB, or an http URL of this machine");
            return None;
        };
        if target.is_at(hosts) {
            return Some(target);
        }
        self.problems.push(Problem::new(
            Code::EnvVarMissing,
            format!("{name} has the host {:?}, which is not one of allowed_hosts", UntrustedText::new(&target.authority)),
            "Check who set the variable. If the host is right, add it to allowed_hosts in the assertion's configuration.",
        ));
        None
    }
}

/// Reads what a token must be.
pub(super) fn read_expected(expect: &Object<'_, '_, ExpectFields>, mistakes: &mut Mistakes) -> Expected {
    let mut claim = |field: Field<'_, '_, TextShape>| field.read(mistakes).map(str::to_owned);
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

fn pointer(field: &Field<'_, '_, TextShape>, mistakes: &mut Mistakes) -> Option<String> {
    let text = field.read(mistakes)?;
    let is_escaped = |part: &str| part.starts_with(['0', '1']);
    if !text.starts_with('/') || !text.split('~').skip(1).all(is_escaped) {
        let expected = "write a JSON pointer: the names and indices on the way to the value, each after a slash, with ~1 for / and ~0 for ~";
        field.mistake(format!("{text:?} is not valid: {expected}"), mistakes);
    }
    Some(text.to_owned())
}

/// Reads hosts, and suffixes of hosts that begin with a dot.
fn read_hosts(field: &Field<'_, '_, List<TextShape>>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut hosts = Vec::new();
    for (path, text) in field.texts(mistakes).unwrap_or_default() {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        // All hosts below a top-level domain are no limit.
        let is_wide = text.strip_prefix('.').is_some_and(|rest| !rest.contains('.'));
        if !text.bytes().all(fits) || is_wide {
            mistakes.add(
                &path,
                format!("{text:?} is not valid: write a host, or a domain with a dot at its beginning, such as \".example.com\""),
            );
        }
        hosts.push(text.to_ascii_lowercase());
    }
    hosts
}
