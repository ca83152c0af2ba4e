//! Contract `node.security`: who a domain is and what it may do.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, contract};
use weft_types::{ChannelId, ClusterName, DomainId, Lane, NodeName, ServiceName};

/// Asks who this domain is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct WhoAmI {}

/// Who the domain is, as the node will tell it to others.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Identity {
    /// The name by which it holds capabilities.
    pub name: ServiceName,
    /// Its node.
    pub node: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its number on the node.
    pub domain: DomainId,
}

/// Asks what this domain may open.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ListGrants {}

/// The capabilities that the node keeps for this domain.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Grants {
    /// One for each capability.
    pub grants: Vec<GrantSummary>,
}

/// One capability, for people.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct GrantSummary {
    /// What it opens.
    pub target: String,
    /// For which contract.
    pub contract: String,
    /// Until when, in seconds since 1970.
    pub not_after_unix: i64,
    /// The most urgent lane that it allows.
    pub ceiling: Lane,
}

/// Asks for a proof that the holder of a channel may open it, for one TLS session. Only the gateway
/// may ask.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Prove {
    /// The channel, whose holder the node knows.
    pub channel: ChannelId,
    /// The service that it leads to.
    pub target: ServiceName,
    /// Keying material exported from the TLS session, so that the proof is good for no other.
    pub exporter: Vec<u8>,
}

/// A proof: whose capability it is, that it is valid, and that its holder is on this session.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Proof {
    /// The capability's certificates as DER, the leaf first, the root left out.
    pub capability_chain: Vec<Vec<u8>>,
    /// The certificates of the key that signs, likewise.
    pub identity_chain: Vec<Vec<u8>>,
    /// Over label, channel, chain hash and exporter value.
    pub signature: Vec<u8>,
}

contract! {
    /// What the daemon serves to each domain attached to it.
    pub contract Security("node.security", 1) as SecurityRequest {
        WhoAmI => Identity,
        ListGrants => Grants,
        Prove => Proof,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{decode, encode};

    use super::*;

    #[test]
    fn grants_travel_whole_and_a_lane_that_does_not_exist_is_refused() {
        let grants = Grants {
            grants: vec![GrantSummary {
                target: "kv".into(),
                contract: "kv".into(),
                not_after_unix: -1,
                ceiling: Lane::LOW,
            }],
        };
        let mut body = Vec::new();
        encode(&grants, &mut body).unwrap();
        assert_eq!(decode(&body), Ok(grants));

        *body.last_mut().unwrap() = 4;
        assert!(decode::<Grants>(&body).is_err());
    }
}
