//! Agreement on types when a channel opens.

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
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The client means another contract.
    #[error("the service speaks contract {ours}, not {theirs}")]
    WrongContract {
        /// The service's contract.
        ours: ContractName,
        /// The client's.
        theirs: ContractName,
    },
    /// The client's table is longer than any contract.
    #[error("a table of {count} message types is longer than the limit of {MAX_TYPES}")]
    TooManyTypes {
        /// Its length.
        count: usize,
    },
    /// The service has no message of this name at all.
    #[error("contract {contract} version {version} of the service has no message {name}")]
    UnknownType {
        /// The contract.
        contract: ContractName,
        /// The service's version of it.
        version: u16,
        /// The message that the client would send.
        name: String,
    },
    /// The service knows the name, but not this version.
    #[error("message {name}: the service knows version {ours}, the client sends version {theirs}")]
    Version {
        /// The message.
        name: String,
        /// The newest version that the service knows.
        ours: u16,
        /// The version that the client would send.
        theirs: u16,
    },
    /// Same name, same version, another shape: one side changed a published type.
    #[error(
        "type {name} version {version}: the service's fingerprint is {ours}, the client's {theirs}; \
         the two were built from different definitions",
        name = ours.name, version = ours.version, ours = ours.fingerprint, theirs = theirs.fingerprint
    )]
    Shape {
        /// The service's type.
        ours: TypeDescription,
        /// The client's.
        theirs: TypeDescription,
    },
    /// The two sides expect different types in answer to one request.
    #[error("message {request}: the service replies with {ours}, the client expects {theirs}")]
    Reply {
        /// The request.
        request: String,
        /// What the service sends.
        ours: TypeDescription,
        /// What the client expects.
        theirs: TypeDescription,
    },
}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        let code = match mismatch {
            Mismatch::WrongContract { .. } => RefusalCode::WrongContract,
            Mismatch::TooManyTypes { .. } => RefusalCode::TooLarge,
            Mismatch::UnknownType { .. }
            | Mismatch::Version { .. }
            | Mismatch::Shape { .. }
            | Mismatch::Reply { .. } => RefusalCode::TypeMismatch,
        };
        Self::new(code, mismatch.to_string())
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
}
