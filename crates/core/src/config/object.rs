//! Typed access to the fields of an object in the configuration.

use std::marker::PhantomData;

use super::declared::{Declarations, Schema};
use super::reader::{Mistakes, Names, Path, Value, find};
use super::tree::Node;

/// The shape of a field's value.
///
/// The schema must accept every value that `read` accepts. It rejects what is wrong whatever the rest of the configuration is; a
/// rule that JSON Schema cannot express, such as the range of a duration, is the reader's alone.
pub(super) trait Shape: Sized {
    /// What is read.
    type Value<'p, 'a>;

    /// Reads a value. Returns `None` if it is not valid, which is reported.
    fn read<'p, 'a>(value: Value<'p, 'a>, mistakes: &mut Mistakes) -> Option<Self::Value<'p, 'a>>;

    /// The JSON Schema of the values.
    fn schema() -> Schema;
}

/// A shape whose defaults are shown in the documentation.
pub(super) trait Shown: Shape {
    /// The value as it is written in the configuration.
    fn show(value: &Self::Value<'_, '_>) -> Node;
}

/// A kind of object in the configuration. `fields!` and `variants!` implement it.
pub(super) trait Section {
    /// The names of the fields.
    const NAMES: Names;

    /// Adds the fields with their documentation.
    fn declare(declarations: &mut Declarations);

    /// The fields with their documentation.
    fn declarations() -> Declarations {
        let mut declarations = Declarations::default();
        Self::declare(&mut declarations);
        declarations
    }
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

    /// An object of fields that are known to be valid names, each once.
    pub(super) const fn of(path: &'p Path<'p>, fields: &'a [(String, Node)]) -> Self {
        Object { path, fields, section: PhantomData }
    }

    /// The fields as they are.
    pub(super) const fn nodes(&self) -> &'a [(String, Node)] {
        self.fields
    }

    /// The path of the object.
    pub(super) const fn at(&self) -> &'p Path<'p> {
        self.path
    }

    /// The field with this name. The accessors that `fields!` declares call it.
    pub(super) fn field<T>(&self, name: &'static str) -> Field<'p, 'a, T> {
        Field { place: place(self.path, self.fields, name), shape: PhantomData }
    }
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

    /// The value if the field is present.
    pub(super) fn value(&self) -> Option<Value<'_, 'a>> {
        Some(Value { path: &self.place.path, node: self.place.node? })
    }

    /// Reads the value. Returns `None` if the field is not present, or if the value is not valid, which is reported.
    #[inline(never)]
    pub(super) fn read(&self, mistakes: &mut Mistakes) -> Option<S::Value<'_, 'a>> {
        S::read(self.value()?, mistakes)
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
