//! Reads the section `assertions`: the sources of federated tokens, and what they get from the environment.

pub(in crate::config) mod fields;
mod form;
mod http;
mod request;

pub(super) use fields::{AssertionFields, PROJECTED_TOKEN};

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::object::{Field, Object};
use super::reader::Mistakes;
use super::shapes::{List, Words as _};
use super::tree::Node;
use crate::assertion::{Expected, HttpSource, Source};
use crate::authority::Authority;
use crate::problem::Problem;
use fields::{FileFields, SourceKind};
use request::{Environment, Reading};

/// The maximum number of sources of which one gets the assertion of another.
const MAX_CHAIN: usize = 3;

/// The sources by name, each with the problem if a part of it is missing in the environment.
pub(super) type Assertions = [(String, Result<Source, Problem>)];

/// The entries of the section, by name.
struct Entries<'p, 'a> {
    entries: Vec<(&'a str, SourceKind, Object<'p, 'a, AssertionFields>)>,
    environment: &'p Environment<'p>,
}

/// Reads the section. The environment is that of `variable`.
pub(super) fn read(
    section: &Field<'_, '_, List<AssertionFields>>,
    authority: Option<&Authority>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Vec<(String, Result<Source, Problem>)> {
    let environment =
        Environment { variable, audience: authority.map_or(Authority::PUBLIC_AUDIENCE, Authority::audience) };
    let items: Vec<_> = section.read(mistakes).unwrap_or_default().iter().collect();
    let mut all = Entries { entries: Vec::new(), environment: &environment };
    for item in &items {
        let Some(object) = item.read(mistakes) else { continue };
        let field = object.name();
        let name = field.read(mistakes).unwrap_or_default();
        if all.entries.iter().any(|(other, ..)| *other == name) {
            field.mistake(format!("{name:?} is already the name of another assertion: choose another name"), mistakes);
        }
        let kind = object.source().read(mistakes).unwrap_or(SourceKind::File);
        all.entries.push((name, kind, object));
    }
    let read = |(name, ..): &(&str, _, _)| ((*name).to_owned(), all.source(name, &mut Vec::new(), mistakes));
    let mut sources: Vec<_> = all.entries.iter().map(read).collect();
    if sources.iter().all(|(name, _)| name != PROJECTED_TOKEN) {
        sources.push((PROJECTED_TOKEN.to_owned(), Ok(Source::File { cluster: PROJECTED_TOKEN.to_owned() })));
    }
    sources
}

impl Entries<'_, '_> {
    /// Reads the source with this name. `users` are the names of the sources that get its assertion, the last one directly.
    fn source<'n>(
        &'n self,
        name: &'n str,
        users: &mut Vec<&'n str>,
        mistakes: &mut Mistakes,
    ) -> Result<Source, Problem> {
        // The mistakes in the fields of an input are reported for its own entry.
        let mut ignored = Mistakes::default();
        let in_fields = if users.is_empty() { &mut *mistakes } else { &mut ignored };
        let is_input = !users.is_empty();
        let Some((_, kind, object)) = self.entries.iter().find(|(other, ..)| *other == name) else {
            return Ok(file(PROJECTED_TOKEN, is_input));
        };
        if *kind == SourceKind::File {
            return Ok(read_file(object, is_input, in_fields));
        }
        let mut reading = Reading::new(self.environment, *kind != SourceKind::Http);
        let http = http::read(SourceKind::word(*kind), object, is_input, &mut reading, in_fields);
        let (Some(mut http), None) = (http, reading.problem()) else {
            // Without a source there is a mistake, which rejects the configuration.
            return reading.problem().map_or_else(|| Ok(file("", is_input)), Err);
        };
        let mut input = None;
        if let Some((path, named)) = &reading.input {
            users.push(name);
            match self.chain_mistake(named, users) {
                None => input = Some(Arc::new(self.source(self.name(named), users, mistakes)?)),
                // The same mistake is found from each source that depends on this one.
                Some(_) if mistakes.0.iter().any(|mistake| mistake.path == *path) => {}
                Some(mistake) => mistakes.add(path, mistake),
            }
            users.pop();
        }
        http.id = id(object, &reading.values, input.as_deref(), is_input);
        Ok(Source::Http { http: Arc::new(http), input })
    }

    /// The name, as written in its entry.
    fn name(&self, name: &str) -> &str {
        self.entries.iter().find(|(other, ..)| *other == name).map_or(PROJECTED_TOKEN, |(name, ..)| name)
    }

    /// Why this assertion cannot be the input of the last of `users`.
    fn chain_mistake(&self, input: &str, users: &[&str]) -> Option<String> {
        if users.contains(&input) {
            let last = users.last().copied().unwrap_or_default();
            return Some(format!(
                "{input:?} needs the token of {last:?} itself: name an assertion that does not depend on it"
            ));
        }
        if self.entries.iter().all(|(other, ..)| *other != input) && input != PROJECTED_TOKEN {
            let names: Vec<&str> = self.entries.iter().map(|(name, ..)| *name).collect();
            return Some(format!(
                "{input:?} is not a known assertion: write {} or {PROJECTED_TOKEN}",
                names.join(" or ")
            ));
        }
        (users.len() >= MAX_CHAIN)
            .then(|| format!("{input:?} would be the fourth source in a chain: at most {MAX_CHAIN} are possible"))
    }
}

/// Reads a file. A token with conditions, or for another source, is read with the same call as any other.
fn read_file(object: &Object<'_, '_, AssertionFields>, is_input: bool, mistakes: &mut Mistakes) -> Source {
    let fields = object.part::<FileFields>();
    let (cluster, expect) = (fields.cluster(), fields.expect());
    let cluster = cluster.read(mistakes).unwrap_or_default();
    let Some(expect) = expect.read(mistakes) else { return file(cluster, is_input) };
    let expected = Expected { is_input, ..http::read_expected(&expect, mistakes) };
    let id = id(object, "", None, is_input);
    Source::Http { http: Arc::new(HttpSource::of_file(cluster, id, expected)), input: None }
}

/// The file that this cluster serves.
fn file(cluster: &str, is_input: bool) -> Source {
    if !is_input {
        return Source::File { cluster: cluster.to_owned() };
    }
    let (id, expected) = (["input/", cluster].concat(), Expected { is_input, ..Expected::default() });
    Source::Http { http: Arc::new(HttpSource::of_file(cluster, id, expected)), input: None }
}

/// The id of a source: a hash of its fields and of the values of its variables, and the id of its input. The workers of a process share a
/// source's token by its id, and two VMs of the process may have other variables.
fn id(object: &Object<'_, '_, AssertionFields>, values: &str, input: Option<&Source>, is_input: bool) -> String {
    let mut fields = String::new();
    for (name, value) in object.nodes() {
        Node::from(name.as_str()).write_json(&mut fields);
        value.write_json(&mut fields);
    }
    fields.push_str(values);
    let mut id = String::new();
    // Letters, which need no formatting.
    let letters = Sha256::digest(fields).into_iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
    letters.for_each(|half| id.push(char::from(b'a' + half)));
    for part in [is_input.then_some("input"), input.map(Source::id)].into_iter().flatten() {
        id.push('/');
        id.push_str(part);
    }
    id
}
