//! The parameters of a query or a form.

/// Decoded parameters in their order.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// Returns the first value; an empty one counts as missing.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Returns a name that occurs twice, except these names.
    pub(crate) fn duplicate(&self, repeatable: &[&str]) -> Option<&str> {
        let names = self.0.iter().map(|(name, _)| name.as_str());
        names
            .enumerate()
            .filter(|(_, name)| !repeatable.contains(name))
            .find(|(index, name)| self.0.iter().take(*index).any(|(earlier, _)| earlier == name))
            .map(|(_, name)| name)
    }

    /// Returns a name that is not in this list.
    pub(crate) fn unknown(&self, known: &[&str]) -> Option<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).find(|name| !known.contains(name))
    }
}
