//! Prints the public API of a library: one item a line, sorted, with the features that it requires.
//!
//!     print-public-api PUBLIC PRIVATE
//!
//! Both arguments are JSON files that rustdoc has written for the library, the second one with `--document-private-items`: an
//! item has the conditions of the modules that it is declared in, and these are private in most cases. The identifiers of the
//! two files differ, so an item is related to its module by its place in the source code.
//!
//! What another line states is not printed: that a type has methods, the methods of the implementation of a trait, and that an auto
//! trait is not implemented. Nor are traits that are unstable.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use public_api::PublicItem;
use rustdoc_types::{Attribute, Crate, Id, Item, ItemEnum, Span, StructKind, VariantKind};

/// Traits that the compiler implements and that cannot be named on stable Rust.
const UNSTABLE_TRAITS: [&str; 3] = ["Freeze", "StructuralPartialEq", "UnsafeUnpin"];

/// The conditions of an item, as they are printed.
type Conditions = BTreeSet<String>;

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [public, private] = files.as_slice() else {
        return Err("usage: print-public-api PUBLIC PRIVATE".into());
    };
    let library = read(public)?;
    let modules = Modules::new(&read(private)?);
    let containers = containers(&library);
    let api = public_api::Builder::from_rustdoc_json(public)
        .sorted(true)
        .omit_blanket_impls(true)
        .build()?;
    for item in api.items() {
        if is_method_of_trait_impl(&library, item) || is_redundant_impl(&library, item) {
            continue;
        }
        let conditions = conditions(&library, &modules, &containers, item);
        if conditions.is_empty() {
            println!("{item}");
        } else {
            let conditions: Vec<_> = conditions.into_iter().collect();
            println!("{item} // {}", conditions.join(", "));
        }
    }
    Ok(())
}

/// Reads a file that rustdoc has written.
///
/// # Errors
///
/// If the file cannot be read, or another version of rustdoc has written it.
fn read(file: &Path) -> Result<Crate, Box<dyn Error>> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| {
        format!(
            "{} is not the JSON of rustdoc in format {}: {error}",
            file.display(),
            rustdoc_types::FORMAT_VERSION
        )
        .into()
    })
}

fn is_method_of_trait_impl(library: &Crate, item: &PublicItem) -> bool {
    let is_method = matches!(inner(library, item.id()), Some(ItemEnum::Function(_)));
    let parent = item.parent_id().and_then(|id| inner(library, id));
    is_method && matches!(parent, Some(ItemEnum::Impl(parent)) if parent.trait_.is_some())
}

/// Returns whether an item is an implementation of no trait or an unstable one, or states that a trait is not implemented.
fn is_redundant_impl(library: &Crate, item: &PublicItem) -> bool {
    let Some(ItemEnum::Impl(implementation)) = inner(library, item.id()) else {
        return false;
    };
    let name = implementation
        .trait_
        .as_ref()
        .and_then(|path| path.path.rsplit("::").next());
    implementation.is_negative || name.is_none_or(|name| UNSTABLE_TRAITS.contains(&name))
}

fn inner(library: &Crate, id: Id) -> Option<&ItemEnum> {
    library.index.get(&id).map(|item| &item.inner)
}

/// Returns the conditions of an item itself, and of all that it is declared in.
fn conditions(
    library: &Crate,
    modules: &Modules,
    containers: &HashMap<Id, Vec<Id>>,
    item: &PublicItem,
) -> Conditions {
    let mut conditions = Conditions::new();
    let mut visited = HashSet::new();
    let mut pending: Vec<Id> = vec![item.id()];
    pending.extend(item.parent_id());
    while let Some(id) = pending.pop() {
        if !visited.insert(id) {
            continue;
        }
        if let Some(item) = library.index.get(&id) {
            conditions.extend(own_conditions(item));
            conditions.extend(item.span.iter().flat_map(|span| modules.conditions(span)));
        }
        pending.extend(containers.get(&id).into_iter().flatten());
    }
    conditions
}

/// Maps each item to the items that contain it: a field to its struct, a variant to its enum, a method to its implementation, and
/// an implementation to its type and its trait. Modules are left out, because an item may be exported by several of them.
fn containers(library: &Crate) -> HashMap<Id, Vec<Id>> {
    let mut containers: HashMap<Id, Vec<Id>> = HashMap::new();
    for (id, item) in &library.index {
        let contents: Vec<Id> = match &item.inner {
            ItemEnum::Struct(item) => fields(&item.kind)
                .into_iter()
                .chain(item.impls.iter().copied())
                .collect(),
            ItemEnum::Union(item) => item.fields.iter().chain(&item.impls).copied().collect(),
            ItemEnum::Enum(item) => item.variants.iter().chain(&item.impls).copied().collect(),
            ItemEnum::Variant(item) => match &item.kind {
                VariantKind::Plain => Vec::new(),
                VariantKind::Tuple(fields) => fields.iter().flatten().copied().collect(),
                VariantKind::Struct { fields, .. } => fields.clone(),
            },
            ItemEnum::Trait(item) => item
                .items
                .iter()
                .chain(&item.implementations)
                .copied()
                .collect(),
            ItemEnum::Impl(item) => item.items.clone(),
            _ => Vec::new(),
        };
        for content in contents {
            containers.entry(content).or_default().push(*id);
        }
    }
    containers
}

fn fields(kind: &StructKind) -> Vec<Id> {
    match kind {
        StructKind::Unit => Vec::new(),
        StructKind::Tuple(fields) => fields.iter().flatten().copied().collect(),
        StructKind::Plain { fields, .. } => fields.clone(),
    }
}

/// The modules of a library, private ones included, with their conditions.
struct Modules(BTreeMap<PathBuf, Vec<(Span, Conditions)>>);

impl Modules {
    fn new(library: &Crate) -> Self {
        let mut modules = Self(BTreeMap::new());
        modules.add(library, library.root, &Conditions::new());
        modules
    }

    fn add(&mut self, library: &Crate, id: Id, outer: &Conditions) {
        let Some(item) = library.index.get(&id) else {
            return;
        };
        let ItemEnum::Module(module) = &item.inner else {
            return;
        };
        let mut conditions = outer.clone();
        conditions.extend(own_conditions(item));
        if let Some(span) = &item.span {
            self.0
                .entry(span.filename.clone())
                .or_default()
                .push((span.clone(), conditions.clone()));
        }
        for id in &module.items {
            self.add(library, *id, &conditions);
        }
    }

    /// Returns the conditions of the modules that contain a place.
    fn conditions(&self, place: &Span) -> Conditions {
        let modules = self.0.get(&place.filename).into_iter().flatten();
        let containing =
            modules.filter(|(module, _)| module.begin <= place.begin && place.end <= module.end);
        containing
            .flat_map(|(_, conditions)| conditions.clone())
            .collect()
    }
}

fn own_conditions(item: &Item) -> Conditions {
    item.attrs
        .iter()
        .filter_map(|attribute| match attribute {
            Attribute::Other(text) => text.strip_prefix("#[attr = CfgTrace(["),
            _ => None,
        })
        .map(|text| condition(text.strip_suffix("])]").unwrap_or(text)))
        .collect()
}

/// Returns a condition as it is printed: `feature axum` for one feature, and otherwise the text that rustdoc writes, without the
/// places in the source code.
fn condition(text: &str) -> String {
    let mut condition = text.to_owned();
    while let Some(start) = condition.find(", span: ") {
        let length = condition[start..]
            .find(" }")
            .unwrap_or(condition.len() - start);
        condition.replace_range(start..start + length, "");
    }
    let feature = condition
        .strip_prefix("NameValue { name: \"feature\", value: Some(\"")
        .and_then(|rest| rest.strip_suffix("\") }"));
    let name = condition
        .strip_prefix("NameValue { name: \"")
        .and_then(|rest| rest.strip_suffix("\", value: None }"));
    match (feature, name) {
        (Some(feature), _) => format!("feature {feature}"),
        (None, Some(name)) => name.to_owned(),
        (None, None) => condition,
    }
}
