//! Type tables: what a client says it will send, when it opens a channel.

use postcard_schema::Schema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use weft_types::{ContractName, Fingerprint, TypeIndex};

use crate::check::is_type_name;
use crate::{Contract, Message, fingerprint};

/// The most messages that a contract has. A longer table is refused when it is decoded.
pub const MAX_TYPES: usize = 256;

/// The longest name of a message type, in bytes. A longer one does not compile, and is refused when
/// it is decoded.
pub const MAX_TYPE_NAME_BYTES: usize = 64;

/// One message type, as the other side has to know it.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize, Schema)]
pub struct TypeDescription {
    /// What both sides call the type.
    #[serde(deserialize_with = "type_name")]
    pub name: String,
    /// Which version of that name.
    pub version: u16,
    /// What it looks like.
    pub fingerprint: Fingerprint,
}

impl TypeDescription {
    /// The description of `M`.
    #[must_use]
    pub fn of<M: Message>() -> Self {
        Self {
            name: M::NAME.to_owned(),
            version: M::VERSION,
            fingerprint: fingerprint::<M>(),
        }
    }
}

impl std::fmt::Display for TypeDescription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} v{} ({})", self.name, self.version, self.fingerprint)
    }
}

/// A request and the reply that answers it.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize, Schema)]
pub struct TypeEntry {
    /// What the client sends.
    pub request: TypeDescription,
    /// What it gets back, under the request's own index.
    pub reply: TypeDescription,
}

impl TypeEntry {
    /// The entry for `Request`, answered by `Reply`.
    #[must_use]
    pub fn of<Request: Message, Reply: Message>() -> Self {
        Self {
            request: TypeDescription::of::<Request>(),
            reply: TypeDescription::of::<Reply>(),
        }
    }
}

/// The messages of one side, in the order of their indices.
///
/// The client's table rules a channel: its positions are the [`TypeIndex`] of every message on it,
/// in both directions. The service translates them with the [`crate::TypeMap`] that
/// [`crate::negotiate()`] gave it.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize, Schema)]
pub struct TypeTable {
    /// Which contract this is a table of.
    pub contract: ContractName,
    /// Which version of the contract. Told to people; what counts is each type by itself.
    pub version: u16,
    /// At most [`MAX_TYPES`] entries; the position is the index.
    #[serde(deserialize_with = "at_most_max_types")]
    pub entries: Vec<TypeEntry>,
}

impl TypeTable {
    /// The table of `C` with these entries.
    ///
    /// # Panics
    ///
    /// If the contract's name breaks the rules, which `contract!` has checked at compile time.
    #[must_use]
    pub fn of<C: Contract>(entries: Vec<TypeEntry>) -> Self {
        Self {
            contract: ContractName::new(C::NAME).expect("the name was checked by the compiler"),
            version: C::VERSION,
            entries,
        }
    }

    /// The entry at this index, if there is one.
    #[must_use]
    pub fn entry(&self, index: TypeIndex) -> Option<&TypeEntry> {
        self.entries.get(usize::from(index.get()))
    }

    /// Where the request of this name and its newest version stands.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<TypeIndex> {
        self.entries
            .iter()
            .zip(0..)
            .filter(|(entry, _)| entry.request.name == name)
            .max_by_key(|(entry, _)| entry.request.version)
            .map(|(_, index)| TypeIndex::new(index))
    }
}

/// Reads a list and refuses it if it is longer than [`MAX_TYPES`].
pub(crate) fn at_most_max_types<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    if list.len() > MAX_TYPES {
        return Err(D::Error::custom(format_args!(
            "{} message types are more than a contract may have ({MAX_TYPES})",
            list.len()
        )));
    }
    Ok(list)
}

/// Reads the name of a message type and refuses one that breaks the rules.
pub(crate) fn type_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_type_name(&name) {
        Ok(name)
    } else {
        Err(D::Error::custom("not a name of a message type"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str]) -> TypeTable {
        let describe = |name: &&str| TypeDescription {
            name: (*name).to_owned(),
            version: 1,
            fingerprint: Fingerprint::new(7),
        };
        TypeTable {
            contract: ContractName::new("test").unwrap(),
            version: 1,
            entries: names
                .iter()
                .map(|name| TypeEntry {
                    request: describe(name),
                    reply: describe(name),
                })
                .collect(),
        }
    }

    #[test]
    fn a_table_is_bounded_when_it_is_decoded() {
        let full = postcard::to_stdvec(&table(&["a"; MAX_TYPES])).unwrap();
        assert!(postcard::from_bytes::<TypeTable>(&full).is_ok());
        let over = postcard::to_stdvec(&table(&["a"; MAX_TYPES + 1])).unwrap();
        assert!(postcard::from_bytes::<TypeTable>(&over).is_err());
    }

    #[test]
    fn a_name_that_breaks_the_rules_is_refused_when_it_is_decoded() {
        for bad in ["", "a b", "\u{1b}[31m", &"x".repeat(65)] {
            let bytes = postcard::to_stdvec(&table(&[bad])).unwrap();
            assert!(
                postcard::from_bytes::<TypeTable>(&bytes).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_newest_version_of_a_name_is_found() {
        let mut table = table(&["a", "b", "b", "c"]);
        table.entries[1].request.version = 2;
        assert_eq!(table.index_of("b"), Some(TypeIndex::new(1)));
        assert_eq!(table.index_of("d"), None);
        assert!(table.entry(TypeIndex::new(4)).is_none());
    }
}
