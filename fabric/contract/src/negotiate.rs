//! Agreement on types when a channel opens.

use std::error::Error;
use std::fmt;

use weft_types::{ContractName, Refusal, RefusalCode, TypeIndex};

use crate::table::{MAX_TYPES, TypeDescription, TypeTable};

/// From the client's indices to the service's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TypeMap {
    ours: Vec<TypeIndex>,
}

impl TypeMap {
    /// The service's index for what the client calls `theirs`; `None` if the client's table has no
    /// such entry, which is the peer's fault.
    #[must_use]
    pub fn ours(&self, theirs: TypeIndex) -> Option<TypeIndex> {
        self.ours.get(usize::from(theirs.get())).copied()
    }
}

/// Why two sides cannot talk. Both were built; one of them has to be built anew.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mismatch {
    /// The client means another contract.
    WrongContract {
        /// The service's contract.
        ours: ContractName,
        /// The client's.
        theirs: ContractName,
    },
    /// The client's table is longer than any contract.
    TooManyTypes {
        /// Its length.
        count: usize,
    },
    /// The service has no message of this name at all.
    UnknownType {
        /// The contract.
        contract: ContractName,
        /// The service's version of it.
        version: u16,
        /// The message that the client would send.
        name: String,
    },
    /// The service knows the name, but not this version.
    Version {
        /// The message.
        name: String,
        /// The newest version that the service knows.
        ours: u16,
        /// The version that the client would send.
        theirs: u16,
    },
    /// Same name, same version, another shape: one side changed a published type.
    Shape {
        /// The service's type.
        ours: TypeDescription,
        /// The client's.
        theirs: TypeDescription,
    },
    /// The two sides expect different types in answer to one request.
    Reply {
        /// The request.
        request: String,
        /// What the service sends.
        ours: TypeDescription,
        /// What the client expects.
        theirs: TypeDescription,
    },
}

impl Mismatch {
    /// The sentence, with names for the two sides: `us` serves what `them` sends.
    fn told(&self, us: &str, them: &str) -> String {
        match self {
            Self::WrongContract { ours, theirs } => {
                format!("{us} speaks contract {ours}, {them} {theirs}")
            }
            Self::TooManyTypes { count } => {
                format!("a table of {count} message types is longer than the limit of {MAX_TYPES}")
            }
            Self::UnknownType {
                contract,
                version,
                name,
            } => format!("contract {contract} version {version} of {us} has no message {name}"),
            Self::Version { name, ours, theirs } => {
                format!("message {name}: {us} knows version {ours}, {them} version {theirs}")
            }
            Self::Shape { ours, theirs } => format!(
                "type {} version {}: the fingerprint of {us} is {}, that of {them} {}; the two were built \
                 from different definitions",
                ours.name, ours.version, ours.fingerprint, theirs.fingerprint
            ),
            Self::Reply {
                request,
                ours,
                theirs,
            } => format!("message {request}: {us} replies with {ours}, {them} means {theirs}"),
        }
    }

    const fn code(&self) -> RefusalCode {
        match self {
            Self::WrongContract { .. } => RefusalCode::WrongContract,
            Self::TooManyTypes { .. } => RefusalCode::TooLarge,
            Self::UnknownType { .. }
            | Self::Version { .. }
            | Self::Shape { .. }
            | Self::Reply { .. } => RefusalCode::TypeMismatch,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told("the service", "the client"))
    }
}

impl Error for Mismatch {}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        Self::new(mismatch.code(), mismatch.to_string())
    }
}

/// The service's answer to a client's table.
///
/// Each type counts by itself: a service that has more messages, in another order, or several
/// versions of one, serves an older client; the contract's own version is not compared.
///
/// # Errors
///
/// The first [`Mismatch`] in the client's order.
pub fn negotiate(ours: &TypeTable, theirs: &TypeTable) -> Result<TypeMap, Mismatch> {
    if ours.contract != theirs.contract {
        return Err(Mismatch::WrongContract {
            ours: ours.contract.clone(),
            theirs: theirs.contract.clone(),
        });
    }
    if theirs.entries.len() > MAX_TYPES {
        return Err(Mismatch::TooManyTypes {
            count: theirs.entries.len(),
        });
    }
    let mut map = Vec::with_capacity(theirs.entries.len());
    for entry in &theirs.entries {
        let index = find(ours, &entry.request)?;
        let own = &ours.entries[usize::from(index.get())];
        if own.request != entry.request {
            return Err(Mismatch::Shape {
                ours: own.request.clone(),
                theirs: entry.request.clone(),
            });
        }
        check_reply(&entry.request, &own.reply, &entry.reply)?;
        map.push(index);
    }
    Ok(TypeMap { ours: map })
}

/// Whether a program with the table `next` may go on where one with the table `former` served: its
/// clients' channels stay open, so it has to understand every type that the former one did. It may
/// understand more.
///
/// # Errors
///
/// `WrongContract` if it speaks another contract, or an older version of it; `TypeMismatch` with the
/// first type that differs.
pub fn check_successor(next: &TypeTable, former: &TypeTable) -> Result<(), Refusal> {
    let (us, them) = ("the program to take over", "the running service");
    negotiate(next, former)
        .map_err(|mismatch| Refusal::new(mismatch.code(), mismatch.told(us, them)))?;
    if next.version < former.version {
        return Err(Refusal::new(
            RefusalCode::WrongContract,
            format!(
                "{us} speaks contract {} version {}, {them} version {}",
                next.contract, next.version, former.version
            ),
        ));
    }
    Ok(())
}

/// Where the service has the type of this name and version.
fn find(ours: &TypeTable, wanted: &TypeDescription) -> Result<TypeIndex, Mismatch> {
    let mut newest = None;
    for (entry, index) in ours.entries.iter().zip(0..) {
        let own = &entry.request;
        if own.name != wanted.name {
            continue;
        }
        if own.version == wanted.version {
            return Ok(TypeIndex::new(index));
        }
        newest = newest.max(Some(own.version));
    }
    Err(match newest {
        Some(version) => Mismatch::Version {
            name: wanted.name.clone(),
            ours: version,
            theirs: wanted.version,
        },
        None => Mismatch::UnknownType {
            contract: ours.contract.clone(),
            version: ours.version,
            name: wanted.name.clone(),
        },
    })
}

fn check_reply(
    request: &TypeDescription,
    ours: &TypeDescription,
    theirs: &TypeDescription,
) -> Result<(), Mismatch> {
    if ours == theirs {
        Ok(())
    } else if (&ours.name, ours.version) == (&theirs.name, theirs.version) {
        Err(Mismatch::Shape {
            ours: ours.clone(),
            theirs: theirs.clone(),
        })
    } else {
        Err(Mismatch::Reply {
            request: request.name.clone(),
            ours: ours.clone(),
            theirs: theirs.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use weft_types::Fingerprint;

    use super::*;
    use crate::table::TypeEntry;

    fn described(name: &str, version: u16, fingerprint: u64) -> TypeDescription {
        TypeDescription {
            name: name.into(),
            version,
            fingerprint: Fingerprint::new(fingerprint),
        }
    }

    fn table(requests: &[(&str, u16, u64)]) -> TypeTable {
        TypeTable {
            contract: ContractName::new("kv").unwrap(),
            version: 1,
            entries: requests
                .iter()
                .map(|&(name, version, fingerprint)| TypeEntry {
                    request: described(name, version, fingerprint),
                    reply: described(&format!("{name}Reply"), 1, 1),
                })
                .collect(),
        }
    }

    #[test]
    fn the_clients_order_rules_and_the_service_may_know_more() {
        let ours = table(&[("Put", 1, 10), ("Put", 2, 20), ("Get", 1, 30)]);
        let map = negotiate(&ours, &table(&[("Get", 1, 30), ("Put", 1, 10)])).unwrap();
        assert_eq!(map.ours(TypeIndex::new(0)), Some(TypeIndex::new(2)));
        assert_eq!(map.ours(TypeIndex::new(1)), Some(TypeIndex::new(0)));
        assert_eq!(map.ours(TypeIndex::new(2)), None);
    }

    #[test]
    fn a_mismatch_names_the_type_and_both_sides() {
        let ours = table(&[("Put", 1, 10), ("Put", 2, 20)]);
        let refuse = |theirs: &TypeTable| negotiate(&ours, theirs).unwrap_err();

        let unknown = refuse(&table(&[("Put", 1, 10), ("Get", 1, 30)]));
        assert!(matches!(&unknown, Mismatch::UnknownType { name, .. } if name == "Get"));

        let version = refuse(&table(&[("Put", 3, 10)]));
        assert!(matches!(
            version,
            Mismatch::Version {
                ours: 2,
                theirs: 3,
                ..
            }
        ));

        let shape = refuse(&table(&[("Put", 1, 11)])).to_string();
        for part in ["Put", "000000000000000a", "000000000000000b"] {
            assert!(shape.contains(part), "{shape}");
        }
    }

    #[test]
    fn another_contract_or_another_reply_is_refused() {
        let ours = table(&[("Put", 1, 10)]);
        let mut other = ours.clone();
        other.contract = ContractName::new("kw").unwrap();
        let refusal = Refusal::from(negotiate(&ours, &other).unwrap_err());
        assert_eq!(refusal.code, RefusalCode::WrongContract);

        let mut reply = ours.clone();
        reply.entries[0].reply.fingerprint = Fingerprint::new(2);
        assert!(matches!(
            negotiate(&ours, &reply),
            Err(Mismatch::Shape { .. })
        ));
        reply.entries[0].reply.name = "Nothing".into();
        let refusal = Refusal::from(negotiate(&ours, &reply).unwrap_err());
        assert_eq!(refusal.code, RefusalCode::TypeMismatch);
        assert!(refusal.text.contains("Nothing"), "{refusal}");
    }

    #[test]
    fn a_successor_understands_all_that_its_predecessor_did() {
        let former = table(&[("Put", 1, 10), ("Get", 1, 30)]);
        let more = table(&[("Get", 1, 30), ("Scan", 1, 40), ("Put", 1, 10)]);
        assert_eq!(check_successor(&more, &former), Ok(()));

        let less = check_successor(&former, &more).unwrap_err();
        assert_eq!(less.code, RefusalCode::TypeMismatch);
        assert!(less.text.contains("Scan"), "{less}");

        let other = check_successor(&table(&[("Put", 1, 10), ("Get", 1, 31)]), &former);
        let other = other.unwrap_err();
        assert_eq!(other.code, RefusalCode::TypeMismatch);
        for part in [
            "Get",
            "program to take over is 000000000000001f",
            "running service 000000000000001e",
        ] {
            assert!(other.text.contains(part), "{other}");
        }
    }

    #[test]
    fn a_successor_is_never_older() {
        let mut former = table(&[("Put", 1, 10)]);
        let next = former.clone();
        former.version = 2;
        assert_eq!(check_successor(&former, &next), Ok(()));
        let refusal = check_successor(&next, &former).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::WrongContract);
        assert!(
            refusal.text.contains("version 1") && refusal.text.contains("version 2"),
            "{refusal}"
        );
    }
}
