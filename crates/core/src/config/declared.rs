//! The declared fields with their documentation, from which the JSON Schema and the tables of the documentation are written.
//!
//! Nothing in the filter calls this, so it is not in the Wasm module.

use super::tree::Node;

/// A JSON Schema (draft 2020-12): keywords in their order, and for an object what is declared of its fields.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    keywords: Vec<(String, Node)>,
    /// The fields of the object, or of the objects in the list.
    fields: Option<Box<Declarations>>,
}

impl Schema {
    pub(super) fn of_type(name: &str) -> Self {
        Self { keywords: Vec::new(), fields: None }.with("type", name)
    }

    /// A list with at least one item.
    pub(super) fn list(items: Self) -> Self {
        let list = Self::of_type("array").with("items", Node::Object(items.keywords)).with("minItems", 1);
        Self { fields: items.fields, ..list }
    }

    /// The keywords with their values.
    pub(super) fn keywords(&self) -> &[(String, Node)] {
        &self.keywords
    }

    fn get(&self, keyword: &str) -> Option<&Node> {
        self.keywords.iter().find(|(name, _)| name == keyword).map(|(_, value)| value)
    }

    /// Sets a keyword; replaces it if it is set.
    pub(super) fn with(mut self, keyword: &str, value: impl Into<Node>) -> Self {
        set(&mut self.keywords, keyword, value.into());
        self
    }

    /// A pattern that no accepted text, or no text of an accepted list, matches (ECMA-262).
    pub(super) fn forbidden(self, pattern: &str) -> Self {
        self.with_inner("not", Node::Object(vec![("pattern".to_owned(), pattern.into())]))
    }

    /// Sets a keyword of the items of a list, or of the value itself if it is not a list.
    fn with_inner(mut self, keyword: &str, value: Node) -> Self {
        match self.keywords.iter_mut().find(|(name, _)| name == "items") {
            Some((_, Node::Object(items))) => set(items, keyword, value),
            _ => set(&mut self.keywords, keyword, value),
        }
        self
    }
}

impl From<Declarations> for Schema {
    fn from(object: Declarations) -> Self {
        Self { keywords: object.keywords(), fields: Some(Box::new(object)) }
    }
}

fn set(keywords: &mut Vec<(String, Node)>, keyword: &str, value: Node) {
    match keywords.iter_mut().find(|(name, _)| name == keyword) {
        Some((_, former)) => *former = value,
        None => keywords.push((keyword.to_owned(), value)),
    }
}

/// A declared field.
#[derive(Clone, Debug)]
pub(super) struct Declaration {
    name: &'static str,
    /// The meaning, in Markdown.
    meaning: String,
    /// Whether the object must have the field.
    required: bool,
    /// The effect of a missing field, in Markdown.
    unset: Option<&'static str>,
    schema: Schema,
}

impl Declaration {
    pub(super) fn new(name: &'static str, schema: Schema, meaning: &[&str]) -> Self {
        Self { name, meaning: joined(meaning), required: false, unset: None, schema }
    }

    /// The field must be present. The reader's message names what to write if it is not.
    pub(super) fn required(mut self, _expected: &str) -> Self {
        self.required = true;
        self
    }

    /// The value that a missing field stands for.
    pub(super) fn default(mut self, value: impl Into<Node>) -> Self {
        self.schema = self.schema.with("default", value);
        self
    }

    /// The effect of a missing field, in Markdown.
    pub(super) const fn unset(mut self, markdown: &'static str) -> Self {
        self.unset = Some(markdown);
        self
    }

    /// A pattern that every accepted text, or every text of an accepted list, matches (ECMA-262).
    pub(super) fn pattern(mut self, pattern: &str) -> Self {
        self.schema = self.schema.with_inner("pattern", pattern.into());
        self
    }

    /// The only accepted texts, or the only texts of an accepted list.
    pub(super) fn words(mut self, words: &[&str]) -> Self {
        self.schema = self.schema.with_inner("enum", words.into());
        self
    }

    /// The description ends with the accepted words.
    pub(super) fn with_words(mut self) -> Self {
        if let Some(Node::List(words)) = self.schema.get("enum") {
            let words: Vec<String> = words.iter().map(code).collect();
            self.meaning = format!("{}: {}", self.meaning, words.join(", "));
        }
        self
    }

    /// A pattern that no accepted text, or no text of an accepted list, matches (ECMA-262).
    pub(super) fn forbidden(mut self, pattern: &str) -> Self {
        self.schema = self.schema.forbidden(pattern);
        self
    }

    /// A value that an editor suggests.
    pub(super) fn example(mut self, value: impl Into<Node>) -> Self {
        let example = Node::List(vec![value.into()]);
        self.schema = self.schema.with("examples", example);
        self
    }

    /// The list has no item twice.
    pub(super) fn unique(mut self) -> Self {
        self.schema = self.schema.with("uniqueItems", true);
        self
    }

    /// Another keyword of the schema, with its value in JSON.
    pub(super) fn rule(mut self, keyword: &str, json: &str) -> Self {
        self.schema = self.schema.with(keyword, parsed(json));
        self
    }

    /// The schema of the field, with its description.
    fn node(&self) -> Node {
        let mut keywords = self.schema.keywords.clone();
        let mut description = sentence(&plain(&self.meaning));
        if let Some(unset) = self.unset.filter(|unset| *unset != "none") {
            let unset = plain(unset);
            let unset = if unset.starts_with("required") { sentence(&unset) } else { format!("Default: {unset}.") };
            description.push_str(&format!(" {unset}"));
        }
        keywords.retain(|(name, _)| name != "description");
        keywords.insert(0, ("description".to_owned(), Node::String(description)));
        Node::Object(keywords)
    }

    /// The rows of the table of fields: one, or those of the object's own fields.
    fn rows(&self, prefix: &str) -> Vec<[String; 3]> {
        let path = format!("{prefix}{}", self.name);
        match &self.schema.fields {
            Some(object) => object.rows(&format!("{path}.")),
            None => vec![[format!("`{path}`"), self.default_cell(), self.meaning.clone()]],
        }
    }

    fn default_cell(&self) -> String {
        match (self.unset, self.schema.get("default")) {
            (Some(unset), _) => unset.to_owned(),
            (None, Some(Node::List(items))) => items.iter().map(code).collect::<Vec<_>>().join(", "),
            (None, Some(value)) => code(value),
            (None, None) if self.required => "required".to_owned(),
            (None, None) => String::new(),
        }
    }
}

/// The declarations of an object's fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Declarations {
    about: String,
    fields: Vec<Declaration>,
    /// The name of the field that selects among the kinds, and the kinds.
    kinds: Option<(&'static str, Vec<(&'static str, Declarations)>)>,
    rules: Vec<(String, Node)>,
}

impl Declarations {
    pub(super) fn add(&mut self, field: Declaration) {
        self.fields.push(field);
    }

    pub(super) fn add_kind(&mut self, by: &'static str, word: &'static str, kind: Self) {
        self.kinds.get_or_insert((by, Vec::new())).1.push((word, kind));
    }

    pub(super) fn about(&mut self, lines: &[&str]) -> &mut Self {
        self.about = joined(lines);
        self
    }

    /// Another keyword of the schema, with its value in JSON.
    pub(super) fn rule(&mut self, keyword: &str, json: &str) -> &mut Self {
        self.rules.push((keyword.to_owned(), parsed(json)));
        self
    }

    /// The object must have one of these fields, or several.
    pub(super) fn any_of(&mut self, names: &[&str]) -> &mut Self {
        let each = names.iter().map(|name| parsed(&format!(r#"{{"required":["{name}"]}}"#)));
        self.rules.push(("anyOf".to_owned(), Node::List(each.collect())));
        self
    }

    /// The keywords of the schema of such an object.
    pub(super) fn keywords(&self) -> Vec<(String, Node)> {
        let mut keywords = vec![("description".to_owned(), Node::String(sentence(&plain(&self.about))))];
        keywords.push(("type".to_owned(), "object".into()));
        match &self.kinds {
            None => keywords.extend(closed(self.fields.iter(), None)),
            Some((by, kinds)) => {
                // The field that selects the kind is also outside of the alternatives, so that an editor suggests all kinds.
                let selector = self.fields.iter().filter(|field| field.name == *by);
                keywords.push(("properties".to_owned(), properties(selector, None)));
                keywords.push(("required".to_owned(), (&[*by][..]).into()));
                let alternative = |(word, kind): &(&'static str, Self)| {
                    let mut keywords = vec![("description".to_owned(), Node::String(sentence(&plain(&kind.about))))];
                    keywords.extend(closed(self.fields.iter().chain(&kind.fields), Some((by, word))));
                    keywords.extend(kind.rules.clone());
                    Node::Object(keywords)
                };
                keywords.push(("oneOf".to_owned(), Node::List(kinds.iter().map(alternative).collect())));
            }
        }
        keywords.extend(self.rules.clone());
        keywords
    }

    /// The rows of the table of fields: name, default, meaning. A field that not all kinds have names its kinds; those of several kinds are
    /// first.
    pub(super) fn rows(&self, prefix: &str) -> Vec<[String; 3]> {
        let mut rows: Vec<[String; 3]> = self.fields.iter().flat_map(|field| field.rows(prefix)).collect();
        let kinds = self.kinds.as_ref().map(|(_, kinds)| kinds.as_slice()).unwrap_or_default();
        let mut of_kinds: Vec<([String; 3], Vec<&str>)> = Vec::new();
        for (row, word) in
            kinds.iter().flat_map(|(word, kind)| kind.rows(prefix).into_iter().map(move |row| (row, *word)))
        {
            match of_kinds.iter_mut().find(|(other, _)| *other == row) {
                Some((_, words)) => words.push(word),
                None => of_kinds.push((row, vec![word])),
            }
        }
        of_kinds.sort_by_key(|(_, words)| words.len() == 1);
        let all: Vec<&str> = kinds.iter().map(|(word, _)| *word).collect();
        rows.extend(
            of_kinds.into_iter().map(|([name, default, meaning], words)| {
                [name, default, [named_kinds(&all, &words), meaning].concat()]
            }),
        );
        rows
    }

    /// The rows of one field: those of the object's, or the list's objects', own fields, or else its own.
    pub(super) fn rows_of(&self, name: &str, prefix: &str) -> Option<Vec<[String; 3]>> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        Some(field.schema.fields.as_ref().map_or_else(|| field.rows(""), |own| own.rows(prefix)))
    }
}

/// The beginning of the meaning of a field that only these kinds have.
fn named_kinds(all: &[&str], having: &[&str]) -> String {
    let list =
        |words: &mut dyn Iterator<Item = &&str>| words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(having.len()) {
        0 => String::new(),
        others if others < having.len() => {
            format!("all but {}: ", list(&mut all.iter().filter(|word| !having.contains(word))))
        }
        _ => format!("{}: ", list(&mut having.iter())),
    }
}

/// The keywords for an object that has these fields only. `kind` is the field that selects the kind, and its value.
fn closed<'a>(
    fields: impl Iterator<Item = &'a Declaration> + Clone,
    kind: Option<(&'static str, &'static str)>,
) -> Vec<(String, Node)> {
    let required: Vec<&str> = fields.clone().filter(|field| field.required).map(|field| field.name).collect();
    let mut keywords = vec![("properties".to_owned(), properties(fields, kind))];
    if !required.is_empty() {
        keywords.push(("required".to_owned(), required.as_slice().into()));
    }
    keywords.push(("additionalProperties".to_owned(), Node::Bool(false)));
    keywords
}

fn properties<'a>(fields: impl Iterator<Item = &'a Declaration>, kind: Option<(&str, &str)>) -> Node {
    let property = |field: &Declaration| match kind {
        Some((by, word)) if field.name == by => Node::Object(vec![("const".to_owned(), word.into())]),
        _ => field.node(),
    };
    Node::Object(fields.map(|field| (field.name.to_owned(), property(field))).collect())
}

/// A pattern for one of these words, whatever the case of its letters.
pub(super) fn any_case(words: &[&str]) -> String {
    let of_any_case = |character: char| match character {
        letter if letter.is_ascii_alphabetic() => format!("[{}{letter}]", letter.to_ascii_uppercase()),
        other => other.to_string(),
    };
    let words = words.iter().map(|word| word.chars().map(of_any_case).collect());
    format!("({})", words.collect::<Vec<String>>().join("|"))
}

/// The lines of a comment as one text.
fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A value of the configuration in Markdown.
fn code(value: &Node) -> String {
    match value {
        Node::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

/// Markdown without its links. A link in parentheses, which leads to more about the subject, is left out.
fn plain(markdown: &str) -> String {
    let (mut text, mut rest) = (String::new(), markdown);
    while let Some((before, after)) = rest.split_once('[') {
        let link = after.split_once("](").filter(|(words, _)| !words.contains(']'));
        let link = link.and_then(|(words, target)| Some((words, target.split_once(')')?.1)));
        let (kept, words, next) = match (before.strip_suffix(" ("), link) {
            (_, None) => (before, "[", after),
            (Some(shorter), Some((words, after))) => match after.strip_prefix(')') {
                Some(after) => (shorter, "", after),
                None => (before, words, after),
            },
            (None, Some((words, after))) => (before, words, after),
        };
        text.push_str(kept);
        text.push_str(words);
        rest = next;
    }
    text.push_str(rest);
    text
}

/// A text with a capital letter at its beginning and a full stop at its end.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

/// JSON that is written in a declaration.
fn parsed(json: &str) -> Node {
    Node::parse(json.as_bytes()).unwrap_or(Node::Null)
}
