//! Declarations of the configuration's fields.
//!
//! **A field is declared once.** [`fields!`] declares the fields of an object: name, shape, default, documentation. From it follow
//! the accessor with which the reader reads the field, the suggestions for unknown names, the field's place in
//! `schema/entra-exchange.schema.json`, and its row in `docs/configuration.md`. `make schema` writes the last two anew.
//!
//! - **A new field:** add it to the declaration of its object, and read it where it is used: `object.member().read(mistakes)`. A
//!   declared field that is never read is a compiler warning.
//! - **A new setting of destinations,** with which `defaults` and each destination can change how requests are handled: add it to
//!   `Settings` in `settings.rs`. [`settings!`] also declares a member of the struct with its default, and reads it.
//! - **A new kind of an object,** such as another `source` of assertions: add it with its own fields to the [`variants!`] of the
//!   object. The `match` that builds the result from the kind no longer compiles until it handles the new kind.
//! - **A new shape of values:** implement [`Shape`](super::object::Shape), which says how a value is read and what its schema is.
//!
//! Only the reader's part is in the Wasm module: nothing in the filter calls `Section::declare`, and the linker drops it with all
//! texts of the documentation.

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
/// has `default`, `unset` (the effect of its absence, in Markdown) or `required`, which names what to write if the field is missing:
/// `required("the client id")`. Notes behind the name of the section are methods of `declared::Declarations`. `..` includes the fields
/// of another section.
///
/// The fields of a section that is declared as `ExampleFields by name` have no accessors: its reader takes them by their names.
macro_rules! fields {
    (
        $(#[doc = $about:literal])+
        $visibility:vis $section:ident $(by $by:ident)? $(, $rule:ident($($argument:expr),*))* {
            $(
                $(#[doc = $doc:literal])+
                $member:ident $(as $name:literal)?: $shape:ty $(, $note:ident($($value:expr),*))*;
            )*
            $(..$part:ident;)*
        }
    ) => {
        $(#[doc = $about])+
        $visibility enum $section {}

        impl $crate::config::object::Section for $section {
            const NAMES: $crate::config::reader::Names = $crate::config::reader::Names::Fields(
                &[$($crate::config::reader::Name {
                    name: $crate::config::fields::name_of!($member $($name)?),
                    required: $crate::config::fields::required!($($note($($value),*))*),
                }),*],
                &[$(<$part as $crate::config::object::Section>::NAMES),*],
            );

            fn declare(declarations: &mut $crate::config::declared::Declarations) {
                $(declarations.add(
                    $crate::config::declared::Declaration::new(
                        $crate::config::fields::name_of!($member $($name)?),
                        <$shape as $crate::config::object::Shape>::schema(),
                        &[$($doc),+],
                    )
                    $(.$note($($value),*))*,
                );)*
                $(<$part as $crate::config::object::Section>::declare(declarations);)*
                declarations.about(&[$($about),+])$(.$rule($($argument),*))*;
            }
        }

        $(impl $crate::config::object::Includes<$part> for $section {})*

        $crate::config::fields::accessors! {
            $visibility $section $(by $by)? { $($(#[doc = $doc])+ $member $(as $name)?: $shape;)* }
        }

        impl $crate::config::object::Shape for $section {
            type Value<'p, 'a> = $crate::config::object::Object<'p, 'a, $section>;

            fn read<'p, 'a>(
                value: $crate::config::reader::Value<'p, 'a>,
                mistakes: &mut $crate::config::reader::Mistakes,
            ) -> Option<Self::Value<'p, 'a>> {
                $crate::config::object::Object::read(value, mistakes)
            }

            fn schema() -> $crate::config::declared::Schema {
                <Self as $crate::config::object::Section>::declarations().into()
            }
        }
    };
}

/// Declares the accessors of a section's fields.
macro_rules! accessors {
    ($visibility:vis $section:ident by name $fields:tt) => {};
    (
        $visibility:vis $section:ident {
            $($(#[doc = $doc:literal])+ $member:ident $(as $name:literal)?: $shape:ty;)*
        }
    ) => {
        impl<'p, 'a> $crate::config::object::Object<'p, 'a, $section> {
            $(
                $(#[doc = $doc])+
                $visibility fn $member(&self) -> $crate::config::object::Field<'p, 'a, $shape> {
                    self.field($crate::config::fields::name_of!($member $($name)?))
                }
            )*
        }
    };
}

/// Declares fields like [`fields!`], and a struct with a member for each. The type of the member and its default are before the
/// shape: `member: Type = default, Shape;`. A member without a default is an option, which a missing field leaves empty:
/// `member: Option<Type>, Shape, unset("the effect");`.
///
/// The struct implements `Default`; `set` overrides its members with the fields of an object.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $(#[derive($($derive:ident),+)])?
        $visibility:vis struct $settings:ident of $section:ident {
            $(
                $(#[doc = $doc:literal])+
                $member:ident $(as $name:literal)?: $type:ty $(= $default:expr)?, $shape:ty
                    $(, $note:ident($($value:expr),*))*;
            )*
        }
    ) => {
        $crate::config::fields::fields! {
            $(#[doc = $about])+
            pub(super) $section {
                $(
                    $(#[doc = $doc])+
                    $member $(as $name)?: $shape
                        $(, default(<$shape as $crate::config::object::Shown>::show(&$default)))? $(, $note($($value),*))*;
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
                Self { $($member: $crate::config::fields::default_of!($($default)?),)* }
            }
        }

        impl $settings {
            /// Overrides the settings with the fields of `object` that are present.
            pub(super) fn set(
                &mut self,
                object: &$crate::config::object::Object<'_, '_, $section>,
                mistakes: &mut $crate::config::reader::Mistakes,
            ) {
                $(if let Some(value) = object.$member().read(mistakes) {
                    self.$member = value.into();
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
///             member: Text, required("what to write");
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
                $word:literal => $kind:ident: $section:ident $(by $how:ident)? { $($fields:tt)* }
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

        impl $crate::config::object::Section for $kinds {
            const NAMES: $crate::config::reader::Names = $crate::config::reader::Names::Kinds(
                $by,
                &[$(($word, <$section as $crate::config::object::Section>::NAMES)),+],
            );

            fn declare(declarations: &mut $crate::config::declared::Declarations) {
                $(declarations.add_kind(
                    $by,
                    $word,
                    <$section as $crate::config::object::Section>::declarations(),
                );)+
            }
        }

        $(
            $crate::config::fields::fields! { $(#[doc = $kind_about])+ $visibility $section $(by $how)? { $($fields)* } }
            impl $crate::config::object::Includes<$section> for $object {}
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

/// What the note `required` among the notes of a field says.
macro_rules! required {
    () => { None };
    (required($expected:expr) $($notes:tt)*) => { Some($expected) };
    ($note:ident($($value:expr),*) $($notes:tt)*) => { $crate::config::fields::required!($($notes)*) };
}

/// The default of a setting.
macro_rules! default_of {
    () => {
        None
    };
    ($default:expr) => {
        $default
    };
}

pub(super) use {accessors, default_of, fields, name_of, required, settings, variants};
