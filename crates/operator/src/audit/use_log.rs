//! What the log of a running filter shows: the exchanges (docs/audit.md).

use std::collections::BTreeSet;

use super::permissions::{ANY, Permission};

/// The tokens that were requested: identity and scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses(BTreeSet<(String, String)>);

impl Uses {
    /// Reads the lines `event=exchange` of a log. Other lines are ignored.
    ///
    /// # Errors
    /// If the text has no such line.
    pub fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter_map(|line| Some(line.split_once("event=exchange ")?.1));
        let uses: BTreeSet<_> =
            lines.filter_map(|fields| Some((field(fields, "identity")?, field(fields, "scope")?))).collect();
        if uses.is_empty() {
            return Err(
                "has no line event=exchange: give the log of the proxy's container, with log.exchanges at its level"
                    .to_owned(),
            );
        }
        Ok(Self(uses))
    }

    /// Notes in a permission whether it was used.
    pub(super) fn mark(&self, permission: &mut Permission) {
        let own = self.0.iter().filter(|(identity, _)| *identity == permission.identity);
        let scopes: Vec<String> = own.map(|(_, scope)| scope.clone()).collect();
        if permission.scope == ANY {
            permission.used = Some(!scopes.is_empty());
            permission.used_scopes = scopes;
        } else {
            permission.used = Some(scopes.contains(&permission.scope));
        }
    }
}

/// The value of a field: a word, or a string of JSON.
fn field(fields: &str, name: &str) -> Option<String> {
    let start = format!("{name}=");
    let rest = fields.strip_prefix(&start).or_else(|| Some(fields.split_once(&format!(" {start}"))?.1))?;
    // A collector may have put the line into a string of JSON.
    let unescaped = rest.starts_with("\\\"").then(|| rest.replace("\\\"", "\""));
    let rest = unescaped.as_deref().unwrap_or(rest);
    if rest.starts_with('"') {
        return serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok();
    }
    rest.split([' ', '\t', '"', '\\']).next().map(str::to_owned)
}
