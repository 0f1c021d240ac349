//! Reads the request of a source, and what it needs from the environment.

use super::fields::{AUTHORIZATION, HttpFields, RESERVED, RequestFields};
use crate::assertion::{Body, MAX_URL, Request, Target, Text, basic, encode};
use crate::config::object::{Field, Object};
use crate::config::reader::Mistakes;
use crate::config::shapes::{List, Text as TextShape, Texts};
use crate::config::tree::Node;
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

/// A request that is being read.
pub(super) struct Reading<'e> {
    environment: &'e Environment<'e>,
    /// Whether the fields of the request are the assertion's own: those of a named source are.
    is_named: bool,
    /// The problems with environment variables.
    problems: Vec<Problem>,
    secrets: Secrets,
    /// The values of the variables, each behind a NUL, which no valid value has.
    pub(super) values: String,
    /// The field that names the input, and the name.
    pub(super) input: Option<(String, String)>,
    headers: Vec<(String, Text)>,
    form: Vec<(String, Text)>,
}

impl<'e> Reading<'e> {
    pub(super) fn new(environment: &'e Environment<'e>, is_named: bool) -> Self {
        Self {
            environment,
            is_named,
            problems: Vec::new(),
            secrets: Secrets::default(),
            values: String::new(),
            input: None,
            headers: Vec::new(),
            form: Vec::new(),
        }
    }

    /// The audience that Entra expects.
    pub(super) const fn audience(&self) -> &'static str {
        self.environment.audience
    }

    /// The problem with the environment, if there is one.
    pub(super) fn problem(&self) -> Option<Problem> {
        (!self.problems.is_empty()).then(|| combined(self.problems.iter().cloned()))
    }

    /// Reads the request of a source.
    pub(super) fn request(
        &mut self,
        fields: &Object<'_, '_, HttpFields>,
        cluster: &str,
        mistakes: &mut Mistakes,
    ) -> Option<Request> {
        let field = fields.request();
        let request = match field.value()?.node {
            Node::Object(own) if self.is_named => Object::of(fields.at(), own),
            _ => field.read(mistakes)?,
        };
        let target = self.target(&request, cluster, mistakes);
        self.headers(&request, mistakes);
        let body = self.body(&request, mistakes);
        let has_body = !matches!(&body, Body::Raw(text) if text.is_empty());
        let method = request.method().read(mistakes).unwrap_or(if has_body { "POST" } else { "GET" });
        Some(Request {
            cluster: cluster.to_owned(),
            method,
            target,
            headers: std::mem::take(&mut self.headers),
            body,
            secrets: std::mem::take(&mut self.secrets),
        })
    }

    fn target(&mut self, request: &Object<'_, '_, RequestFields>, cluster: &str, mistakes: &mut Mistakes) -> Target {
        let (path, url, hosts, query) =
            (request.path(), request.url_from_env(), request.allowed_hosts(), request.query());
        let allowed = read_hosts(&hosts, mistakes);
        let authority = request.authority();
        let configured = authority.read(mistakes).unwrap_or(cluster);
        let text = path.read(mistakes).unwrap_or("/");
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !text.starts_with('/') || !is_visible {
            path.mistake(format!("{text:?} is not valid: write a path such as \"/token\""), mistakes);
        }
        let mut target = Target { authority: configured.to_ascii_lowercase(), path: text.to_owned() };
        let parameters = query.read(mistakes).unwrap_or_default();
        target.add_query(&parameters);
        if target.path.len() > MAX_URL {
            let length = target.path.len();
            mistakes.add_at(request.at(), format!("makes a URL of {length} bytes: shorten it to {MAX_URL} bytes"));
        }
        let Some(name) = url.read(mistakes) else {
            if hosts.is_set() {
                hosts.mistake("is for the URL of url_from_env, which is not set: remove it", mistakes);
            }
            // A named source without a path has one to be set, which is reported as missing.
            if !path.is_set() && !url.is_set() && !self.is_named {
                path.mistake("is missing: write the path, such as \"/token\"", mistakes);
            }
            return target;
        };
        if path.is_set() || authority.is_set() {
            url.mistake("is set beside path or authority, which the URL contains: remove one of the two", mistakes);
        }
        if !hosts.is_set() {
            hosts.mistake("is missing: list the hosts that may get the request with its credentials", mistakes);
        }
        self.url(name, &allowed, &parameters).unwrap_or_default()
    }

    fn headers(&mut self, request: &Object<'_, '_, RequestFields>, mistakes: &mut Mistakes) {
        let (plain, secret) = (request.headers(), request.headers_from_env());
        for (name, value) in plain.read(mistakes).unwrap_or_default() {
            if name.eq_ignore_ascii_case(AUTHORIZATION) {
                let message = "has a credential: name its variable in bearer_from_env, basic_auth or headers_from_env";
                plain.mistake(message, mistakes);
            }
            if value.bytes().any(|byte| byte.is_ascii_control()) {
                plain.mistake(format!("has a control character in {name:?}: remove it"), mistakes);
            }
            self.header(&plain, name, Text::Plain(value.to_owned()), mistakes);
        }
        for (name, variable) in secret.read(mistakes).unwrap_or_default() {
            let value = self.secret(variable);
            self.header(&secret, name, Text::Secret(value), mistakes);
        }
        let bearer = request.bearer_from_env();
        if let Some(name) = bearer.read(mistakes) {
            let value = ["Bearer ", self.secret(name).expose()].concat();
            self.authorization(bearer.path(), value, mistakes);
        }
        let basic_auth = request.basic_auth();
        if let Some(client) = basic_auth.read(mistakes) {
            let (id, name) = (client.id(), client.secret_from_env());
            let id = id.read(mistakes).unwrap_or_default();
            let secret = name.read(mistakes).map(|name| self.secret(name)).unwrap_or_default();
            self.authorization(basic_auth.path(), basic(id, secret.expose()), mistakes);
        }
    }

    fn authorization(&mut self, path: String, value: String, mistakes: &mut Mistakes) {
        let value = Secret::new(value);
        self.secrets.push(value.clone());
        add(&mut self.headers, path, AUTHORIZATION, Text::Secret(value), mistakes);
    }

    fn header(&mut self, field: &Field<'_, '_, Texts>, name: &str, value: Text, mistakes: &mut Mistakes) {
        let name = name.to_ascii_lowercase();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(fits) || RESERVED.contains(&name.as_str()) {
            field.mistake(
                format!("has {name:?}, which is not the name of a header that can be set: remove it"),
                mistakes,
            );
        }
        add(&mut self.headers, field.path(), &name, value, mistakes);
    }

    fn form(&mut self, request: &Object<'_, '_, RequestFields>, mistakes: &mut Mistakes) {
        let (form, secret, assertion) = (request.form(), request.form_from_env(), request.form_from_assertion());
        for (name, text) in form.read(mistakes).unwrap_or_default() {
            add(&mut self.form, form.path(), name, Text::Plain(text.to_owned()), mistakes);
        }
        for (name, variable) in secret.read(mistakes).unwrap_or_default() {
            let value = self.secret(variable);
            add(&mut self.form, secret.path(), name, Text::Secret(value), mistakes);
        }
        for (name, input) in assertion.read(mistakes).unwrap_or_default() {
            // A field of a named source has the name of the parameter.
            let parent = if self.is_named { request.at().to_string() } else { assertion.path() };
            let path = [&parent, ".", name].concat();
            add(&mut self.form, path.clone(), name, Text::Input, mistakes);
            match &self.input {
                Some((_, other)) if other != input => mistakes.add(
                    path,
                    format!("{input:?} is the second assertion in this request, beside {other:?}: remove one"),
                ),
                _ => self.input = Some((path, input.to_owned())),
            }
        }
    }

    fn body(&mut self, request: &Object<'_, '_, RequestFields>, mistakes: &mut Mistakes) -> Body {
        self.form(request, mistakes);
        let is_form =
            request.form().is_set() || request.form_from_env().is_set() || request.form_from_assertion().is_set();
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

    /// Reads a secret from an environment variable. It is empty if that is not possible, which is a problem.
    fn secret(&mut self, name: &str) -> Secret {
        let Some(text) = self.variable(name) else { return Secret::default() };
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            self.missing(name, "has a control character");
            return Secret::default();
        }
        // A service may repeat it as it is in a form or in a client's credentials.
        self.secrets.push(Secret::new(encode(&text)));
        let secret = Secret::new(text);
        self.secrets.push(secret.clone());
        secret
    }

    fn variable(&mut self, name: &str) -> Option<String> {
        match read_variable(name, self.environment.variable) {
            Ok(Some(text)) => {
                self.values.push('\0');
                self.values.push_str(&text);
                return Some(text);
            }
            Ok(None) => self.missing(name, "is not set"),
            Err(problem) => self.problems.push(problem),
        }
        None
    }

    fn missing(&mut self, name: &str, what: &str) {
        self.problems.push(Problem::new(Code::EnvVarMissing, [name, " ", what].concat(), SET_VARIABLE));
    }

    /// Reads a URL from an environment variable, and adds the query. It may have these hosts only: the request contains credentials.
    fn url(&mut self, name: &str, hosts: &[String], query: &[(&str, &str)]) -> Option<Target> {
        let text = self.variable(name)?;
        let target = Target::parse(&text).map(|mut target| {
            target.add_query(query);
            target
        });
        let Some(target) = target.filter(|target| target.path.len() <= MAX_URL) else {
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

/// Adds a header or a parameter, which a request has once.
fn add(all: &mut Vec<(String, Text)>, path: String, name: &str, value: Text, mistakes: &mut Mistakes) {
    if all.iter().any(|(other, _)| other == name) {
        mistakes.add(path, format!("sets {name:?}, which the request already has: remove one of the two"));
    }
    all.push((name.to_owned(), value));
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
