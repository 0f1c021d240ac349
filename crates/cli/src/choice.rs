//! Arguments that are one of several values of the library, each with its name and its description there.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use operator::credentials::Format;
use operator::detect::Route;
use operator::render::Target;

/// A value that has a name.
pub(crate) trait Named: Copy + Send + Sync + 'static {
    /// All values.
    const ALL: &'static [Self];

    /// The name, and what it is.
    fn named(self) -> (&'static str, &'static str);
}

impl Named for Target {
    const ALL: &'static [Self] = &Self::ALL;

    fn named(self) -> (&'static str, &'static str) {
        (self.as_str(), self.about())
    }
}

impl Named for Format {
    const ALL: &'static [Self] = &Self::ALL;

    fn named(self) -> (&'static str, &'static str) {
        (self.as_str(), self.about())
    }
}

impl Named for Route {
    const ALL: &'static [Self] = &Self::ALL;

    fn named(self) -> (&'static str, &'static str) {
        (self.as_str(), self.about())
    }
}

/// The parser of an argument that names a value.
pub(crate) fn one_of<T: Named>() -> impl TypedValueParser<Value = T> {
    let possible = T::ALL.iter().map(|value| {
        let (name, about) = value.named();
        PossibleValue::new(name).help(about)
    });
    PossibleValuesParser::new(possible)
        .try_map(|name| T::ALL.iter().copied().find(|value| value.named().0 == name).ok_or("write one of the names"))
}
