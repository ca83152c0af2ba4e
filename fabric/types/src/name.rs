//! Names: of nodes, services, contracts and clusters.
//!
//! Names end up in certificates, file names, DNS labels and logs, so they are checked once, where
//! they enter, and a value of these types is always valid.

use std::fmt;
use std::str::FromStr;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// A name that breaks the rules.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{name:?} is not a {kind} name: {rule}")]
pub struct NameError {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:literal, $extra:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks the rules and wraps the name.
            ///
            /// # Errors
            ///
            /// [`NameError`], which tells the rule.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                let extra: &[char] = &$extra;
                let fits = !name.is_empty()
                    && name.len() <= $max
                    && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                    && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                    && name
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || extra.contains(&c));
                if fits { Ok(Self(name)) } else { Err(NameError { kind: $kind, name, rule: $rule }) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

name!(
    /// A node of a cluster: a DNS label, since it stands in the node's certificate.
    NodeName, "node", 40, ['-'],
    "1 to 40 of a-z, 0-9 and '-', first and last a letter or digit"
);
name!(
    /// A service, or any other domain that can hold a capability.
    ///
    /// `node/<name>` is the node daemon of that node; no other service may begin with `node/`.
    ServiceName, "service", 64, ['-', '.', '/'],
    "1 to 64 of a-z, 0-9, '-', '.' and '/', first and last a letter or digit"
);
name!(
    /// A contract: what a service understands.
    ContractName, "contract", 40, ['-', '.'],
    "1 to 40 of a-z, 0-9, '-' and '.', first and last a letter or digit"
);
name!(
    /// A cluster: a DNS label.
    ClusterName, "cluster", 40, ['-'],
    "1 to 40 of a-z, 0-9 and '-', first and last a letter or digit"
);

/// The prefix of the names of node daemons.
const NODE_PREFIX: &str = "node/";

impl ServiceName {
    /// The node daemon of `node`, as a service.
    #[must_use]
    pub fn of_node(node: &NodeName) -> Self {
        Self(format!("{NODE_PREFIX}{node}"))
    }

    /// The node whose daemon this names, if it names one.
    #[must_use]
    pub fn as_node(&self) -> Option<NodeName> {
        NodeName::new(self.0.strip_prefix(NODE_PREFIX)?).ok()
    }

    /// Whether the name is one that only a node daemon may carry.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(NODE_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_checked_where_it_enters() {
        for good in ["n1", "shop-7", "a"] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-n",
            "n-",
            "N1",
            "n 1",
            "n/1",
            "../etc",
            &"x".repeat(41),
        ] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_daemon_is_a_service_with_a_reserved_name() {
        let node = NodeName::new("n3").unwrap();
        let service = ServiceName::of_node(&node);
        assert_eq!(service.as_str(), "node/n3");
        assert_eq!(service.as_node(), Some(node));
        assert!(service.is_reserved());
        assert_eq!(ServiceName::new("kv").unwrap().as_node(), None);
    }
}
