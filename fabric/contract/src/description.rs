//! Descriptions: a contract for those who do not have its crate.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_types::{ContractName, TypeIndex};

use crate::fingerprint::fingerprint_of;
use crate::table::{at_most_max_types, type_name};
use crate::{Contract, Message, TypeDescription, TypeEntry, TypeSchema, TypeTable};

/// A message type with its whole schema.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct TypeShape {
    /// What both sides call the type.
    #[serde(deserialize_with = "type_name")]
    pub name: String,
    /// Which version of that name.
    pub version: u16,
    /// What it looks like, field by field.
    pub schema: TypeSchema,
}

impl TypeShape {
    /// The shape of `M`.
    #[must_use]
    pub fn of<M: Message>() -> Self {
        Self {
            name: M::NAME.to_owned(),
            version: M::VERSION,
            schema: TypeSchema::of::<M>(),
        }
    }

    /// The short form that a type table carries.
    #[must_use]
    pub fn describe(&self) -> TypeDescription {
        TypeDescription {
            name: self.name.clone(),
            version: self.version,
            fingerprint: fingerprint_of(&self.name, self.version, &self.schema),
        }
    }
}

/// A request and the reply that answers it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct MessageDescription {
    /// What the client sends.
    pub request: TypeShape,
    /// What it gets back.
    pub reply: TypeShape,
}

impl MessageDescription {
    /// The description of `Request`, answered by `Reply`.
    #[must_use]
    pub fn of<Request: Message, Reply: Message>() -> Self {
        Self {
            request: TypeShape::of::<Request>(),
            reply: TypeShape::of::<Reply>(),
        }
    }
}

/// All that a stranger needs to talk to a service: names, versions and schemas of every request and
/// reply.
///
/// It comes from the service, which may lie. A lie about a shape leads to bytes that the service
/// then refuses itself, and to replies that do not fit what it announced: both are errors, and the
/// bounds of [`TypeSchema`] hold in any case.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct ContractDescription {
    /// The contract's name.
    pub name: ContractName,
    /// The service's version of it.
    pub version: u16,
    /// Its messages; the position is the index in [`Self::table`]. At most [`crate::MAX_TYPES`].
    #[serde(deserialize_with = "at_most_max_types")]
    pub messages: Vec<MessageDescription>,
}

impl ContractDescription {
    /// The description of `C` with these messages.
    ///
    /// # Panics
    ///
    /// If the contract's name breaks the rules, which `contract!` has checked at compile time.
    #[must_use]
    pub fn of<C: Contract>(messages: Vec<MessageDescription>) -> Self {
        Self {
            name: ContractName::new(C::NAME).expect("the name was checked by the compiler"),
            version: C::VERSION,
            messages,
        }
    }

    /// The table with which a client that knows only this description opens its channel.
    #[must_use]
    pub fn table(&self) -> TypeTable {
        TypeTable {
            contract: self.name.clone(),
            version: self.version,
            entries: self
                .messages
                .iter()
                .map(|message| TypeEntry {
                    request: message.request.describe(),
                    reply: message.reply.describe(),
                })
                .collect(),
        }
    }

    /// The message that a person means by `name`, and its index: the request of exactly this name
    /// in its newest version, or else the only one whose name ends in `.name` (so that `Put` finds
    /// `kv.Put`).
    #[must_use]
    pub fn message(&self, name: &str) -> Option<(TypeIndex, &MessageDescription)> {
        let newest = |whole: &str| {
            self.messages
                .iter()
                .zip(0..)
                .filter(|(message, _)| message.request.name == whole)
                .max_by_key(|(message, _)| message.request.version)
                .map(|(message, index)| (TypeIndex::new(index), message))
        };
        newest(name).or_else(|| newest(self.only_ending_in(name)?))
    }

    /// The index of the message that a person means by `name`: see [`Self::message`].
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<TypeIndex> {
        self.message(name).map(|(index, _)| index)
    }

    fn only_ending_in(&self, last_part: &str) -> Option<&str> {
        let mut found = None;
        for message in &self.messages {
            let name = message.request.name.as_str();
            let ends = name
                .strip_suffix(last_part)
                .is_some_and(|front| front.ends_with('.'));
            if ends && found.replace(name).is_some_and(|other| other != name) {
                return None;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, Schema, Message)]
    #[message(crate = crate)]
    struct Unit {}

    fn described(names: &[(&str, u16)]) -> ContractDescription {
        ContractDescription {
            name: ContractName::new("test").unwrap(),
            version: 1,
            messages: names
                .iter()
                .map(|&(name, version)| {
                    let mut message = MessageDescription::of::<Unit, Unit>();
                    message.request.name = name.to_owned();
                    message.request.version = version;
                    message
                })
                .collect(),
        }
    }

    #[test]
    fn a_short_name_is_enough_where_it_is_clear() {
        let described = described(&[
            ("a.Put", 1),
            ("a.Put", 2),
            ("a.Get", 1),
            ("b.Get", 1),
            ("Get", 1),
        ]);
        let find = |name| described.index_of(name).map(TypeIndex::get);
        assert_eq!(find("a.Put"), Some(1));
        assert_eq!(find("Put"), Some(1));
        assert_eq!(find("Get"), Some(4), "the whole name goes first");
        assert_eq!(find("ut"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn a_name_with_two_meanings_finds_nothing() {
        let described = described(&[("a.Get", 1), ("b.Get", 1)]);
        assert_eq!(described.index_of("Get"), None);
        assert_eq!(described.index_of("b.Get"), Some(TypeIndex::new(1)));
    }

    #[test]
    fn a_description_whose_schema_has_no_bottom_is_refused() {
        #[derive(Serialize)]
        struct Hostile {
            name: &'static str,
            version: u16,
            schema: Vec<u8>,
        }
        let shape = |schema| {
            let hostile = Hostile {
                name: "a.Put",
                version: 1,
                schema,
            };
            postcard::from_bytes::<TypeShape>(&postcard::to_stdvec(&hostile).unwrap())
        };
        assert!(shape(TypeSchema::of::<Unit>().encoded().to_vec()).is_ok());
        assert!(shape([0, 18].repeat(40_000)).is_err());
        assert!(shape(Vec::new()).is_err());
    }

    #[test]
    fn a_description_from_elsewhere_gives_the_same_table() {
        let described = described(&[("a.Put", 1), ("a.Get", 3)]);
        let bytes = postcard::to_stdvec(&described).unwrap();
        let read: ContractDescription = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(read, described);
        assert_eq!(read.table(), described.table());
        let own = MessageDescription::of::<Unit, Unit>();
        assert_eq!(own.request.describe(), TypeDescription::of::<Unit>());
    }
}
