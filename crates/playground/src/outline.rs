//! Where the cursor is in a text of JSON or YAML that need not be finished: the path, and the word that is being written.
//!
//! The text is read to its end, and what cannot be understood is skipped: a text is rarely valid while it is being written. `check`
//! judges it strictly.

use std::ops::Range;

/// Stands for the cursor while the text is read, so that an empty place is a word, too. It is in a private area of Unicode.
const MARK: char = '\u{e000}';

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into the field of an object.
    Field(String),
    /// Into an item of a list.
    Item,
}

/// What the word at the cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The name of a field, with its colon. The path leads to the object.
    Name,
    /// The value of a field. The path leads to it.
    Value,
    /// A word alone: the beginning of a name if the path leads to an object, else a value.
    Bare,
}

/// How the surrounding object or list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// In braces and brackets.
    Flow,
    /// By indentation.
    Block,
}

/// A field, with its value if that is a single word.
pub(crate) type Field = (String, Option<String>);

/// The place of the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The steps from the root of the filter's configuration.
    pub(crate) path: Vec<Step>,
    /// For each step, the fields of the object that it leads to or passes; the last is that of the innermost object.
    pub(crate) fields: Vec<Vec<Field>>,
    /// What the word is.
    pub(crate) role: Role,
    /// The word without quotes.
    pub(crate) word: String,
    /// The bytes of the word, without quotes.
    pub(crate) span: Range<usize>,
    /// Whether the word is in quotes.
    pub(crate) is_quoted: bool,
    /// How the object is written in which the word is.
    pub(crate) style: Style,
    /// The column of the word, from 0, in bytes.
    pub(crate) column: usize,
}

/// The place of a cursor at a byte offset. `None` in a comment, and where a text cannot be part of the filter's configuration.
pub(crate) fn at(text: &str, offset: usize) -> Option<Place> {
    let (before, after) = text.split_at_checked(offset)?;
    if text.contains(MARK) {
        return None;
    }
    let marked = format!("{before}{MARK}{after}");
    let mut reader = Reader { text: &marked, at: 0, end: marked.len(), objects: Vec::new(), found: None };
    reader.document();
    let found = reader.found.take()?;
    let (path, fields) = reader.path(found.object)?;
    let root = fields.first()?;
    if root.iter().any(|(name, _)| matches!(name.as_str(), "apiVersion" | "kind" | "static_resources")) {
        return None;
    }
    let path = path.into_iter().chain(found.step.clone()).collect();
    let line = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
    Some(Place {
        path,
        fields,
        role: found.role,
        word: found.word.replace(MARK, ""),
        span: found.span.start..found.span.end.saturating_sub(MARK.len_utf8()),
        is_quoted: found.is_quoted,
        style: found.style,
        column: found.span.start.saturating_sub(line),
    })
}

/// An object or a list.
#[derive(Debug)]
struct Collection {
    parent: Option<(usize, Step)>,
    fields: Vec<Field>,
}

/// The word with the cursor.
#[derive(Debug)]
struct Found {
    object: usize,
    step: Option<Step>,
    role: Role,
    word: String,
    span: Range<usize>,
    is_quoted: bool,
    style: Style,
}

/// A word: a name or a single value.
#[derive(Debug)]
struct Word {
    text: String,
    span: Range<usize>,
    is_quoted: bool,
}

/// A collection that is written by indentation.
#[derive(Clone, Copy, Debug)]
struct Frame {
    index: usize,
    indent: usize,
    is_list: bool,
}

/// Where the next nested collection belongs.
#[derive(Clone, Debug)]
enum Pending {
    Root,
    Below(usize, Step),
    Nothing,
}

#[derive(Debug)]
struct Reader<'a> {
    text: &'a str,
    at: usize,
    end: usize,
    objects: Vec<Collection>,
    found: Option<Found>,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..self.end).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn line(&self) -> &str {
        self.rest().split('\n').next().unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes).min(self.end);
    }

    fn add(&mut self, parent: Option<(usize, Step)>) -> usize {
        self.objects.push(Collection { parent, fields: Vec::new() });
        self.objects.len().saturating_sub(1)
    }

    /// The steps to a collection, and the fields of each object on the way.
    fn path(&self, index: usize) -> Option<(Vec<Step>, Vec<Vec<Field>>)> {
        let mut steps = Vec::new();
        let mut fields = Vec::new();
        let mut next = Some(index);
        while let Some(index) = next {
            let collection = self.objects.get(index)?;
            fields.push(collection.fields.clone());
            next = collection.parent.as_ref().map(|(parent, step)| {
                steps.push(step.clone());
                *parent
            });
        }
        steps.reverse();
        fields.reverse();
        Some((steps, fields))
    }

    /// Remembers the word if the cursor is in it. `step` leads from the collection to the word.
    fn note(&mut self, word: &Word, object: usize, step: Option<Step>, role: Role, style: Style) {
        if word.text.contains(MARK) {
            let Word { text, span, is_quoted } = word;
            let (word, span, is_quoted) = (text.clone(), span.clone(), *is_quoted);
            self.found = Some(Found { object, step, role, word, span, is_quoted, style });
        }
    }

    fn set_value(&mut self, object: usize, value: &Word) {
        let field = self.objects.get_mut(object).and_then(|object| object.fields.last_mut());
        if let Some((_, slot)) = field {
            *slot = Some(value.text.replace(MARK, ""));
        }
    }

    fn set_field(&mut self, object: usize, name: &Word) {
        if let Some(object) = self.objects.get_mut(object) {
            object.fields.push((name.text.replace(MARK, ""), None));
        }
    }

    /// Reads lines until the end: YAML's block style, with flow style in it.
    fn document(&mut self) {
        let mut frames: Vec<Frame> = Vec::new();
        let mut pending = Pending::Root;
        while self.at < self.end {
            let line = self.line();
            let content = line.trim_start_matches(' ');
            let indent = line.len().saturating_sub(content.len());
            if line.starts_with("---") {
                (frames, pending) = (Vec::new(), Pending::Root);
                self.skip(line.len());
            } else if content.trim().is_empty() || content.starts_with('#') {
                self.skip(line.len());
            } else {
                self.skip(indent);
                self.block(indent, &mut frames, &mut pending);
                // What is left of the line, such as a comment.
                let left = self.line().len();
                self.skip(left);
            }
            self.skip(1);
        }
    }

    /// Reads the content of a line, which begins in column `indent`.
    fn block(&mut self, mut indent: usize, frames: &mut Vec<Frame>, pending: &mut Pending) {
        loop {
            let line = self.line();
            if let Some(item) = line.strip_prefix('-').filter(|item| item.is_empty() || item.starts_with([' ', MARK])) {
                let gap = item.len().saturating_sub(item.trim_start_matches(' ').len()).saturating_add(1);
                let list = self.frame(indent, true, frames, pending);
                *pending = Pending::Below(list, Step::Item);
                self.skip(gap);
                indent = indent.saturating_add(gap);
                if self.line().trim().is_empty() {
                    return;
                }
                continue;
            }
            if line.starts_with(['{', '[']) {
                let parent = self.attach(frames, pending);
                self.flow(parent);
                return;
            }
            let word = self.block_word();
            if self.line().starts_with(':') {
                self.skip(1);
                let object = self.frame(indent, false, frames, pending);
                self.note(&word, object, None, Role::Name, Style::Block);
                self.set_field(object, &word);
                *pending = self.block_value(object, &word, indent);
            } else if let Some(object) = self.bare(indent, frames, pending) {
                self.note(&word, object, None, Role::Bare, Style::Block);
            }
            return;
        }
    }

    /// The collection that a line in column `indent` continues, or a new one.
    fn frame(&mut self, indent: usize, is_list: bool, frames: &mut Vec<Frame>, pending: &Pending) -> usize {
        while let Some(frame) = frames.last() {
            let is_closed = frame.indent > indent || (frame.indent == indent && frame.is_list && !is_list);
            if !is_closed {
                break;
            }
            frames.pop();
        }
        if let Some(frame) = frames.last().filter(|frame| frame.indent == indent && frame.is_list == is_list) {
            return frame.index;
        }
        let parent = self.attach(frames, pending);
        let index = self.add(parent);
        frames.push(Frame { index, indent, is_list });
        index
    }

    /// The parent of a new collection inside the innermost frame.
    fn attach(&self, frames: &[Frame], pending: &Pending) -> Option<(usize, Step)> {
        match (pending, frames.last()) {
            (Pending::Below(parent, step), Some(frame)) if frame.index == *parent => Some((*parent, step.clone())),
            (Pending::Below(..) | Pending::Nothing, Some(frame)) => Some((frame.index, Step::Item)),
            _ => None,
        }
    }

    /// Where a word without a colon belongs: to an object of its column, or as the value that is expected.
    fn bare(&mut self, indent: usize, frames: &mut Vec<Frame>, pending: &Pending) -> Option<usize> {
        while frames.last().is_some_and(|frame| frame.indent > indent || (frame.indent == indent && frame.is_list)) {
            frames.pop();
        }
        if let Some(frame) = frames.last().filter(|frame| frame.indent == indent) {
            return Some(frame.index);
        }
        let is_expected = match (pending, frames.last()) {
            (Pending::Below(parent, _), Some(frame)) => frame.index == *parent,
            (Pending::Root, _) | (_, None) => true,
            (Pending::Nothing, _) => false,
        };
        // Fields in the lines that follow belong to the same object.
        is_expected.then(|| self.frame(indent, false, frames, pending))
    }

    /// Reads a word at the beginning of a line's content: up to a colon that ends a name, or to the end.
    fn block_word(&mut self) -> Word {
        if let Some(word) = self.quoted() {
            return word;
        }
        let line = self.line();
        let end = line.find(" #").unwrap_or(line.len());
        let line = line.get(..end).unwrap_or_default();
        let ends_name = |(offset, _): &(usize, &str)| {
            line.get(offset.saturating_add(1)..).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', MARK]))
        };
        let end = line.match_indices(':').find(ends_name).map_or(line.trim_end().len(), |(offset, _)| offset);
        self.take(end)
    }

    /// Takes a plain word of this length.
    fn take(&mut self, length: usize) -> Word {
        let start = self.at;
        self.skip(length);
        let text = self.text.get(start..self.at).unwrap_or_default().trim_end().to_owned();
        Word { span: start..start.saturating_add(text.len()), text, is_quoted: false }
    }

    /// Reads a word in quotes. A quote without its partner ends with the line.
    fn quoted(&mut self) -> Option<Word> {
        let quote = self.peek().filter(|first| matches!(first, '"' | '\''))?;
        self.skip(1);
        let start = self.at;
        let mut is_escaped = false;
        let line = self.line();
        let length = line
            .char_indices()
            .find(|(_, next)| {
                let ends = *next == quote && !is_escaped;
                is_escaped = quote == '"' && *next == '\\' && !is_escaped;
                ends
            })
            .map(|(offset, _)| offset);
        let is_closed = length.is_some();
        let length = length.unwrap_or(line.len());
        self.skip(length);
        let text = self.text.get(start..self.at).unwrap_or_default().to_owned();
        self.skip(usize::from(is_closed));
        Some(Word { span: start..start.saturating_add(text.len()), text, is_quoted: true })
    }

    /// Reads what is after the colon of a field in block style, and returns where a nested block belongs.
    fn block_value(&mut self, object: usize, name: &Word, indent: usize) -> Pending {
        let below = (object, Step::Field(name.text.replace(MARK, "")));
        let gap = self.line().len().saturating_sub(self.line().trim_start_matches(' ').len());
        self.skip(gap);
        let is_root = matches!(name.text.as_str(), "pluginConfig");
        let is_text = matches!(name.text.as_str(), "value" | "inline_string")
            || [".json", ".yaml", ".yml"].iter().any(|end| name.text.ends_with(end));
        match self.peek() {
            None | Some('\n' | '#') => {}
            Some('{' | '[') => {
                self.flow(Some(below).filter(|_| !is_root));
                return Pending::Nothing;
            }
            Some('|' | '>') => {
                self.block_text(indent, is_text);
                return Pending::Nothing;
            }
            Some('\'') if is_text && self.line().starts_with("'{") => {
                self.skip(1);
                self.flow(None);
                return Pending::Nothing;
            }
            Some(_) => {
                let word = self.block_scalar();
                self.note(&word, object, Some(below.1), Role::Value, Style::Block);
                self.set_value(object, &word);
                return Pending::Nothing;
            }
        }
        if is_root { Pending::Root } else { Pending::Below(below.0, below.1) }
    }

    fn block_scalar(&mut self) -> Word {
        if let Some(word) = self.quoted() {
            return word;
        }
        let line = self.line();
        let end = line.find(" #").unwrap_or(line.len());
        self.take(end)
    }

    /// Skips the lines of a block scalar, or reads them as a text of their own if they may be the filter's configuration.
    fn block_text(&mut self, indent: usize, is_read: bool) {
        let header = self.line().len();
        self.skip(header.saturating_add(1));
        let start = self.at;
        while self.at < self.end {
            let line = self.line();
            let content = line.trim_start_matches(' ');
            if !content.trim().is_empty() && line.len().saturating_sub(content.len()) <= indent {
                break;
            }
            let length = line.len().saturating_add(1);
            self.skip(length);
        }
        // The line break belongs to the caller, who skips it.
        let end = self.at.saturating_sub(1).max(start);
        self.at = end;
        if is_read {
            let outer = std::mem::replace(&mut self.end, end);
            self.at = start;
            self.document();
            self.end = outer;
            self.at = end;
        }
    }

    /// Reads an object in braces or a list in brackets. What is not closed ends with the text.
    fn flow(&mut self, parent: Option<(usize, Step)>) {
        let is_list = self.peek() == Some('[');
        self.skip(1);
        let index = self.add(parent);
        loop {
            self.skip_space();
            match self.peek() {
                None => return,
                Some('}' | ']') => return self.skip(1),
                Some(',' | ':') => self.skip(1),
                Some('{' | '[') => self.flow(Some((index, Step::Item))),
                Some(_) => self.flow_entry(index, is_list),
            }
        }
    }

    /// Reads a field of an object, or an item of a list.
    fn flow_entry(&mut self, index: usize, is_list: bool) {
        let word = self.flow_word();
        let after = self.at;
        self.skip_space();
        if is_list || self.peek() != Some(':') {
            self.at = after;
            let step = is_list.then_some(Step::Item);
            self.note(&word, index, step, Role::Bare, Style::Flow);
            return;
        }
        self.skip(1);
        self.note(&word, index, None, Role::Name, Style::Flow);
        self.set_field(index, &word);
        self.skip_space();
        let step = Step::Field(word.text.replace(MARK, ""));
        match self.peek() {
            Some('{' | '[') => self.flow(Some((index, step)).filter(|_| word.text != "pluginConfig")),
            None | Some(',' | '}' | ']') => {}
            Some(_) => {
                let value = self.flow_word();
                self.note(&value, index, Some(step), Role::Value, Style::Flow);
                self.set_value(index, &value);
            }
        }
    }

    fn flow_word(&mut self) -> Word {
        if let Some(word) = self.quoted() {
            return word;
        }
        let line = self.line();
        let ends = |(offset, next): &(usize, char)| match next {
            ',' | '{' | '}' | '[' | ']' | '"' => true,
            // A URL has a colon that is followed by a slash.
            ':' => !line
                .get(offset.saturating_add(1)..)
                .is_some_and(|rest| rest.starts_with(|c: char| c == '/' || c.is_alphanumeric())),
            '#' => line.get(..*offset).is_some_and(|before| before.ends_with(' ')),
            _ => false,
        };
        let length = line.char_indices().find(ends).map_or(line.len(), |(offset, _)| offset);
        // A character that nothing expects is skipped, so that reading always advances.
        let length = if length == 0 { line.chars().next().map_or(1, char::len_utf8) } else { length };
        self.take(length)
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let space = rest.len().saturating_sub(rest.trim_start().len());
            self.skip(space);
            if !self.rest().starts_with('#') {
                return;
            }
            let comment = self.line().len();
            self.skip(comment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of the `‸` in a text: the path, the role and the word.
    fn place(text: &str) -> Option<(String, Role, String)> {
        let offset = text.find('‸').unwrap_or_default();
        let place = at(&text.replace('‸', ""), offset)?;
        let path: Vec<&str> = place
            .path
            .iter()
            .map(|step| match step {
                Step::Field(name) => name.as_str(),
                Step::Item => "[]",
            })
            .collect();
        assert_eq!(text.replace('‸', "").get(place.span.clone()), Some(place.word.as_str()), "{text}");
        Some((path.join("."), place.role, place.word))
    }

    fn is_at(text: &str, path: &str, role: Role, word: &str) {
        assert_eq!(place(text), Some((path.to_owned(), role, word.to_owned())), "{text}");
    }

    #[test]
    fn the_place_in_finished_json_is_found() {
        is_at(r#"{"ent‸ra": {}}"#, "", Role::Name, "entra");
        is_at(r#"{"entra": {"clusters": ["a", "b‸"]}}"#, "entra.clusters.[]", Role::Bare, "b");
        is_at(
            r#"{"destinations": [{"hosts": []}, {"action": "inj‸ect"}]}"#,
            "destinations.[].action",
            Role::Value,
            "inject",
        );
    }

    #[test]
    fn the_place_in_unfinished_json_is_found() {
        is_at("{‸", "", Role::Bare, "");
        is_at("{\"entra\": {‸\n}", "entra", Role::Bare, "");
        is_at("{\n  \"des‸\n}", "", Role::Bare, "des");
        is_at("{\"log\": {\"exchanges\": ‸\n}}", "log.exchanges", Role::Value, "");
        is_at("{\"log\": {\"exchanges\": \"‸\n}}", "log.exchanges", Role::Value, "");
        is_at("{\"destinations\": [‸", "destinations.[]", Role::Bare, "");
        is_at("{\"destinations\": [{\"scope\": \"x\" ‸", "destinations.[]", Role::Bare, "");
    }

    #[test]
    fn the_place_in_yaml_is_found_by_the_indentation() {
        is_at("entra:\n  clu‸\n", "entra", Role::Bare, "clu");
        is_at("entra:\n  clusters: [a]\n‸", "", Role::Bare, "");
        is_at("entra:\n  ‸\nlog: {}\n", "entra", Role::Bare, "");
        is_at("destinations:\n- hosts: [a]\n  act‸", "destinations.[]", Role::Bare, "act");
        is_at("destinations:\n- ‸", "destinations.[]", Role::Bare, "");
        is_at("destinations:\n  - scope: x\n    methods:\n    - G‸\n", "destinations.[].methods.[]", Role::Bare, "G");
        is_at("destinations:\n- hosts: [a]\nlog: { exch‸ }\n", "log", Role::Bare, "exch");
        is_at("a: { b: { c‸: 1 } }", "a.b", Role::Name, "c");
        is_at("log:\n  exchanges: ‸  # a comment\n", "log.exchanges", Role::Value, "");
        is_at(
            "destinations:\n- hosts: [a]\n  scope: https://x/.def‸ault\n",
            "destinations.[].scope",
            Role::Value,
            "https://x/.default",
        );
    }

    #[test]
    fn a_configuration_inside_a_manifest_has_its_own_root() {
        is_at("kind: WasmPlugin\nspec:\n  pluginConfig:\n    ent‸\n", "", Role::Bare, "ent");
        is_at("kind: WasmPlugin\nspec:\n  pluginConfig:\n    entra: { clu‸ }\n", "entra", Role::Bare, "clu");
        is_at("kind: X\nspec:\n  value: |\n    {\"log\": {‸}}\n  other: 1\n", "log", Role::Bare, "");
        is_at("kind: X\nspec:\n  value: '{\"log\": {‸}}'\n", "log", Role::Bare, "");
        assert_eq!(place("apiVersion: v1\nkind: X\nme‸\n"), None);
        assert_eq!(place("kind: X\ndata:\n  run.sh: |\n    ech‸\n"), None);
    }

    #[test]
    fn a_comment_has_no_place() {
        assert_eq!(place("entra: {}\n# a com‸ment\n"), None);
        assert_eq!(place("log:\n  exchanges: info # wh‸y\n"), None);
    }

    #[test]
    fn the_fields_around_the_cursor_are_known_also_those_after_it() {
        let text = "assertions:\n- source: vault\n  \n  name: x\n";
        let found = at(text, text.find("  \n").unwrap_or_default() + 2);
        let fields = found.and_then(|place| place.fields.last().cloned()).unwrap_or_default();
        let expected = [("source", Some("vault")), ("name", Some("x"))];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))));
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        let texts = [
            "{{{[[[",
            "]]}}",
            "- - - a",
            "a: |\n",
            "a: '{\n",
            "\"",
            "'",
            ": : :",
            "a:\n\t- b",
            "---\n---\n",
            "ä: ö\n- ü",
            "{a,,:b:c}",
            "\u{e000}",
        ];
        for text in texts {
            for offset in 0..=text.len() {
                let _ = at(text, offset);
            }
        }
    }
}
