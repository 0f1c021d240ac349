//! Declarations of the configuration's fields, and typed access to the fields of an object.
//!
//! **A field is declared once.** [`fields!`] declares the fields of an object: name, shape, default, documentation. From it follow
//! the accessor with which the reader reads the field, the suggestions for unknown names, the field's place in
//! `schema/entra-exchange.schema.json`, and its row in `docs/configuration.md`. `make schema` writes the last two anew.
//!
//! - **A new field:** add it to the declaration of its object, and read it where it is used: `object.member().read(mistakes)`. A
//!   declared field that is never read is a compiler warning.
//! - **A new setting of destinations,** with which `defaults` and each destination can change how requests are handled: add it to
//!   `Settings` in `treatment.rs`. [`settings!`] also declares a member of the struct with its default, and reads it.
//! - **A new kind of an object,** such as another `source` of assertions: add it with its own fields to the [`variants!`] of the
//!   object. The `match` that builds the result from the kind no longer compiles until it handles the new kind.
//! - **A new shape of values:** implement [`Shape`], which says how a value is read and what its schema is.
//!
//! Only the reader's part is in the Wasm module: nothing in the filter calls `Section::declare`, and the linker drops it with all
//! texts of the documentation.

use std::marker::PhantomData;

use super::declared::Declarations;
use super::reader::{Mistakes, Path, Value};
use super::shapes::{List, Shape, Text};
use super::tree::Node;

/// The names of the fields that the objects of a section may have.
pub(super) enum Names {
    /// The names of the section's own fields, and those of the sections that it includes.
    Fields(&'static [&'static str], &'static [Self]),
    /// The names of each kind, which the text of a field selects.
    Kinds(&'static str, &'static [(&'static str, Self)]),
}

impl Names {
    /// The names that this object may have, each once.
    pub(super) fn of(&self, object: &[(String, Node)]) -> Vec<&'static str> {
        let mut names = Vec::new();
        self.collect(object, &mut names);
        names
    }

    fn collect(&self, object: &[(String, Node)], names: &mut Vec<&'static str>) {
        match self {
            Self::Fields(own, included) => {
                for name in *own {
                    if !names.contains(name) {
                        names.push(name);
                    }
                }
                included.iter().for_each(|included| included.collect(object, names));
            }
            Self::Kinds(by, kinds) => {
                let is_of = |word: &str| matches!(find(object, by), Some(Node::String(text)) if text == word);
                let known = kinds.iter().any(|(word, _)| is_of(word));
                // If the kind is missing or unknown, which is another mistake, no field of any kind is one.
                let possible = kinds.iter().filter(|(word, _)| !known || is_of(word));
                possible.for_each(|(_, kind)| kind.collect(object, names));
            }
        }
    }
}

/// A kind of object in the configuration. [`fields!`] and [`variants!`] implement it.
pub(super) trait Section {
    /// The names of the fields.
    const NAMES: Names;

    /// Adds the fields with their documentation.
    fn declare(declarations: &mut Declarations);
}

/// The objects of this section also have the fields of `P`.
pub(super) trait Includes<P> {}

/// An object with its path.
pub(super) struct Object<'p, 'a, S> {
    path: &'p Path<'p>,
    fields: &'a [(String, Node)],
    section: PhantomData<S>,
}

impl<'p, 'a, S: Section> Object<'p, 'a, S> {
    /// Reads an object. Unknown and duplicate fields are mistakes.
    pub(super) fn read(value: Value<'p, 'a>, mistakes: &mut Mistakes) -> Option<Self> {
        let fields = value.fields(&S::NAMES, mistakes)?;
        Some(Object { path: value.path, fields, section: PhantomData })
    }

    /// The same object, for access to the fields of a section that is included in its own.
    pub(super) const fn part<P>(&self) -> Object<'p, 'a, P>
    where
        S: Includes<P>,
    {
        Object { path: self.path, fields: self.fields, section: PhantomData }
    }

    /// The fields as they are.
    pub(super) const fn nodes(&self) -> &'a [(String, Node)] {
        self.fields
    }

    /// The path of the object.
    pub(super) const fn at(&self) -> &'p Path<'p> {
        self.path
    }

    /// The field with this name. The accessors that [`fields!`] declares call it.
    pub(super) fn field<T>(&self, name: &'static str) -> Field<'p, 'a, T> {
        Field { place: place(self.path, self.fields, name), shape: PhantomData }
    }
}

/// The value of the field with this name.
#[inline(never)]
fn find<'a>(fields: &'a [(String, Node)], name: &str) -> Option<&'a Node> {
    fields.iter().find(|(field, _)| field == name).map(|(_, node)| node)
}

/// The path of a value, and the value if it is present.
struct Place<'p, 'a> {
    path: Path<'p>,
    node: Option<&'a Node>,
}

/// The place of a field in an object. It is not inlined into the accessors: the module is smaller so.
#[inline(never)]
fn place<'p, 'a>(object: &'p Path<'p>, fields: &'a [(String, Node)], name: &'static str) -> Place<'p, 'a> {
    Place { path: Path::Field(object, name), node: find(fields, name) }
}

/// A field of an object, which need not be present, or an item of a list.
pub(super) struct Field<'p, 'a, S> {
    place: Place<'p, 'a>,
    shape: PhantomData<S>,
}

impl<'a, S: Shape> Field<'_, 'a, S> {
    /// The path, such as `destinations[2].scope`.
    pub(super) fn path(&self) -> String {
        self.place.path.to_string()
    }

    /// Reports a mistake in this field.
    #[inline(never)]
    pub(super) fn mistake(&self, message: impl Into<String>, mistakes: &mut Mistakes) {
        mistakes.add_at(&self.place.path, message);
    }

    /// Whether the field is present, with a valid value or not.
    pub(super) const fn is_set(&self) -> bool {
        self.place.node.is_some()
    }

    fn value(&self) -> Option<Value<'_, 'a>> {
        Some(Value { path: &self.place.path, node: self.place.node? })
    }

    /// Reads the value. Returns `None` if the field is not present, or if the value is not valid, which is reported.
    #[inline(never)]
    pub(super) fn read(&self, mistakes: &mut Mistakes) -> Option<S::Value<'_, 'a>> {
        S::read(self.value()?, mistakes)
    }

    /// Reads the value of a field that must be present; `expected` names what to write if it is not.
    #[inline(never)]
    pub(super) fn required(&self, expected: &str, mistakes: &mut Mistakes) -> Option<S::Value<'_, 'a>> {
        if !self.is_set() {
            self.mistake(format!("is missing: write {expected}"), mistakes);
        }
        self.read(mistakes)
    }
}

impl<'a> Field<'_, 'a, List<Text>> {
    /// Reads the strings of a list, each with its path. Returns `None` if the field is not present.
    pub(super) fn texts(&self, mistakes: &mut Mistakes) -> Option<Vec<(String, &'a str)>> {
        Some(self.value()?.texts(mistakes))
    }
}

/// The items of a list, which are read one by one.
pub(super) struct Items<'p, 'a, S> {
    path: &'p Path<'p>,
    nodes: &'a [Node],
    shape: PhantomData<S>,
}

impl<S> Default for Items<'_, '_, S> {
    fn default() -> Self {
        Self { path: &Path::Root, nodes: &[], shape: PhantomData }
    }
}

impl<'p, 'a, S> Items<'p, 'a, S> {
    pub(super) fn read(value: Value<'p, 'a>, mistakes: &mut Mistakes) -> Option<Self> {
        Some(Self { path: value.path, nodes: value.list(mistakes)?, shape: PhantomData })
    }

    pub(super) const fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Field<'p, 'a, S>> {
        let path = self.path;
        let field = move |(index, node)| Field {
            place: Place { path: Path::Item(path, index), node: Some(node) },
            shape: PhantomData,
        };
        self.nodes.iter().enumerate().map(field)
    }
}

/// Declares the fields of an object, in the order in which messages and documentation list them.
///
/// ```text
/// fields! {
///     /// What the object is.
///     pub(super) ExampleFields {
///         /// The meaning, in Markdown: the cell of the table in docs/configuration.md, and the description in the schema.
///         member as "name-if-it-is-no-identifier": Shape, default("value"), pattern("^v"), example("value");
///         ..OtherFields;
///     }
/// }
/// ```
///
/// The shape is a type of `shapes.rs`, or another section. The notes behind it are methods of `declared::Declaration`; every field
/// has `default`, `unset` (the effect of its absence, in Markdown) or `required`. Notes behind the name of the section are methods
/// of `declared::Declarations`. `..` includes the fields of another section.
macro_rules! fields {
    (
        $(#[doc = $about:literal])+
        $visibility:vis $section:ident $(, $rule:ident($($argument:expr),*))* {
            $(
                $(#[doc = $doc:literal])+
                $member:ident $(as $name:literal)?: $shape:ty $(, $note:ident($($value:expr),*))*;
            )*
            $(..$part:ident;)*
        }
    ) => {
        $(#[doc = $about])+
        $visibility enum $section {}

        impl $crate::config::fields::Section for $section {
            const NAMES: $crate::config::fields::Names = $crate::config::fields::Names::Fields(
                &[$($crate::config::fields::name_of!($member $($name)?)),*],
                &[$(<$part as $crate::config::fields::Section>::NAMES),*],
            );

            fn declare(declarations: &mut $crate::config::declared::Declarations) {
                $(declarations.add(
                    $crate::config::declared::Declaration::new::<$shape>(
                        $crate::config::fields::name_of!($member $($name)?),
                        &[$($doc),+],
                    )
                    $(.$note($($value),*))*,
                );)*
                $(<$part as $crate::config::fields::Section>::declare(declarations);)*
                declarations.about(&[$($about),+])$(.$rule($($argument),*))*;
            }
        }

        $(impl $crate::config::fields::Includes<$part> for $section {})*

        impl<'p, 'a> $crate::config::fields::Object<'p, 'a, $section> {
            $(
                $(#[doc = $doc])+
                $visibility fn $member(&self) -> $crate::config::fields::Field<'p, 'a, $shape> {
                    self.field($crate::config::fields::name_of!($member $($name)?))
                }
            )*
        }

        impl $crate::config::shapes::Shape for $section {
            type Value<'p, 'a> = $crate::config::fields::Object<'p, 'a, $section>;

            fn read<'p, 'a>(
                value: $crate::config::reader::Value<'p, 'a>,
                mistakes: &mut $crate::config::reader::Mistakes,
            ) -> Option<Self::Value<'p, 'a>> {
                $crate::config::fields::Object::read(value, mistakes)
            }

            fn schema() -> $crate::config::declared::Schema {
                $crate::config::declared::Declarations::of::<Self>().into()
            }
        }
    };
}

/// Declares fields like [`fields!`], and a struct with a member for each. The type of the member and its default stand before the
/// shape: `member: Type = default, Shape;`.
///
/// The struct implements `Default`; `set` overrides its members with the fields of an object.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $(#[derive($($derive:ident),+)])?
        $visibility:vis struct $settings:ident of $section:ident {
            $(
                $(#[doc = $doc:literal])+
                $member:ident $(as $name:literal)?: $type:ty = $default:expr, $shape:ty
                    $(, $note:ident($($value:expr),*))*;
            )*
        }
    ) => {
        $crate::config::fields::fields! {
            $(#[doc = $about])+
            pub(super) $section {
                $(
                    $(#[doc = $doc])+
                    $member $(as $name)?: $shape,
                        default(<$shape as $crate::config::shapes::Shown>::show(&$default)) $(, $note($($value),*))*;
                )*
            }
        }

        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        $(#[derive($($derive),+)])?
        $visibility struct $settings {
            $(
                $(#[doc = $doc])+
                $visibility $member: $type,
            )*
        }

        impl Default for $settings {
            fn default() -> Self {
                Self { $($member: $default,)* }
            }
        }

        impl $settings {
            /// Overrides the settings with the fields of `object` that are present.
            pub(super) fn set(
                &mut self,
                object: &$crate::config::fields::Object<'_, '_, $section>,
                mistakes: &mut $crate::config::reader::Mistakes,
            ) {
                $(if let Some(value) = object.$member().read(mistakes) {
                    self.$member = value;
                })*
            }
        }
    };
}

/// Declares the kinds of an object, each with fields of its own. The text of the field behind `by` selects the kind.
///
/// ```text
/// variants! {
///     /// The kinds of the object.
///     pub(super) enum Kind of ObjectFields by "source" {
///         /// What this kind is.
///         "http" => Http: HttpFields {
///             /// The meaning.
///             member: Text, required();
///         }
///     }
/// }
/// ```
///
/// The object declares the field as `source: Choice<Kind>` and includes `..Kind;`. The reader gets the fields of a kind from
/// `object.part::<HttpFields>()`. An object whose kind is missing or unknown may have the fields of every kind.
macro_rules! variants {
    (
        $(#[doc = $about:literal])+
        $visibility:vis enum $kinds:ident of $object:ident by $by:literal {
            $(
                $(#[doc = $kind_about:literal])+
                $word:literal => $kind:ident: $section:ident { $($fields:tt)* }
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $kinds {
            $($(#[doc = $kind_about])+ $kind,)+
        }

        impl $crate::config::shapes::Words for $kinds {
            type Value = Self;
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$kind)),+];
        }

        impl $crate::config::fields::Section for $kinds {
            const NAMES: $crate::config::fields::Names = $crate::config::fields::Names::Kinds(
                $by,
                &[$(($word, <$section as $crate::config::fields::Section>::NAMES)),+],
            );

            fn declare(declarations: &mut $crate::config::declared::Declarations) {
                $(declarations.add_kind(
                    $by,
                    $word,
                    $crate::config::declared::Declarations::of::<$section>(),
                );)+
            }
        }

        $(
            $crate::config::fields::fields! { $(#[doc = $kind_about])+ $visibility $section { $($fields)* } }
            impl $crate::config::fields::Includes<$section> for $object {}
        )+
    };
}

/// The name of a field in the configuration: its own, or else the name of its accessor.
macro_rules! name_of {
    ($member:ident) => {
        stringify!($member)
    };
    ($member:ident $name:literal) => {
        $name
    };
}

pub(super) use {fields, name_of, settings, variants};
