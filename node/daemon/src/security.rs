//! The security service: names, capabilities, proofs.
//!
//! It holds the node's capabilities and the keys of its instances, and signs nothing but proofs of
//! possession for channels whose holder it knows. Everything it decides, it decides when a channel
//! is opened.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use weft::{Contract, Request};
use weft_capability::{
    Chain, InstanceKeys, NodeIdentity, Opening, Presented, Target, Wallet, admit_local,
};
use weft_contract::TypeTable;
use weft_node_control::{
    DomainRole, GrantSummary, Grants, Identity, Proof, Security as SecurityContract,
    SecurityRequest,
};
use weft_types::{
    ChannelId, ClusterName, DomainId, Epoch, Lane, NodeName, Refusal, RefusalCode, ServiceName,
};

use crate::line::{Answer, Line, reply};
use crate::node::Node;

/// The most grant files that are read from the node's directory.
const MAX_GRANT_FILES: usize = 4096;

/// The node's keys and capabilities.
pub(crate) struct Security {
    identity: NodeIdentity,
    keys: InstanceKeys,
    wallet: RefCell<Wallet>,
    grants: PathBuf,
}

impl Security {
    /// Takes the node's identity, and every capability in the directory `grants`.
    pub(crate) fn new(identity: NodeIdentity, keys: InstanceKeys, grants: PathBuf) -> Self {
        let security = Self {
            identity,
            keys,
            wallet: RefCell::new(Wallet::new()),
            grants,
        };
        security.read_grants();
        security
    }

    pub(crate) fn node(&self) -> &NodeName {
        self.identity.name()
    }

    pub(crate) fn cluster(&self) -> &ClusterName {
        self.identity.cluster()
    }

    /// Reads the grants that lie in the node's directory. One that cannot be used is logged and
    /// left out; it takes nothing away from the others.
    fn read_grants(&self) {
        let own = self.identity.capability().clone();
        self.take("the node's own capability", own);
        let Ok(files) = fs::read_dir(&self.grants) else {
            return;
        };
        for path in files
            .take(MAX_GRANT_FILES)
            .filter_map(|file| Some(file.ok()?.path()))
        {
            if path.extension().is_some_and(|extension| extension == "pem") {
                match read_chain(&path) {
                    Ok(chain) => self.take(&path.display().to_string(), chain),
                    Err(why) => tracing::warn!(file = %path.display(), why, "not a capability"),
                }
            }
        }
    }

    fn take(&self, from: &str, chain: Chain) {
        let taken = self
            .wallet
            .borrow_mut()
            .insert(self.identity.bundle(), chain, SystemTime::now())
            .map(|_| ());
        if let Err(error) = taken {
            tracing::warn!(from, %error, "a capability is not used");
        }
    }

    /// Keeps a capability that an operator has sent, also on the disk.
    ///
    /// # Errors
    ///
    /// `Malformed`, `Untrusted` and its kin; `Storage`.
    pub(crate) fn install(&self, pem: &str) -> Result<(ServiceName, Target), Refusal> {
        let chain = Chain::from_pem(pem).map_err(|error| {
            Refusal::new(
                RefusalCode::Malformed,
                format!("not a chain of certificates: {error}"),
            )
        })?;
        let mut wallet = self.wallet.borrow_mut();
        let capability = wallet
            .insert(self.identity.bundle(), chain, SystemTime::now())
            .map_err(|error| match error {
                weft_capability::WalletError::Refused(error) => error.refusal(),
                full @ weft_capability::WalletError::Full => {
                    Refusal::new(RefusalCode::OverBudget, full.to_string())
                }
            })?;
        let path = self.grants.join(format!("{}.pem", capability.id));
        fs::create_dir_all(&self.grants)
            .and_then(|()| fs::write(&path, pem))
            .map_err(|error| {
                Refusal::new(RefusalCode::Storage, format!("{}: {error}", path.display()))
            })?;
        Ok((capability.holder.clone(), capability.target.clone()))
    }

    /// The one check before a channel is opened: may `holder` speak `table`'s contract to `target`,
    /// with every message that the table names? Gives the most urgent lane that it may use.
    ///
    /// # Errors
    ///
    /// `NoGrant`, `Expired`, `NotAllowed`: each says what is missing and how to get it.
    pub(crate) fn admit(
        &self,
        holder: &ServiceName,
        target: &ServiceName,
        table: &TypeTable,
    ) -> Result<Lane, Refusal> {
        let opening = opening(target, table);
        let chain = self.find(holder, &opening)?;
        let grant = admit_local(
            self.identity.bundle(),
            &chain,
            holder,
            &opening,
            SystemTime::now(),
        )
        .map_err(|error| error.refusal())?;
        for entry in &table.entries {
            grant
                .check_message(&entry.request.name)
                .map_err(|error| error.refusal())?;
        }
        Ok(grant.lane_ceiling)
    }

    /// The capability for an opening. What is missing in memory may have come to the disk since.
    fn find(&self, holder: &ServiceName, opening: &Opening<'_>) -> Result<Chain, Refusal> {
        let look = || {
            self.wallet
                .borrow()
                .find(holder, opening, SystemTime::now())
                .map(|held| held.chain.clone())
        };
        look().or_else(|_| {
            self.read_grants();
            look().map_err(|error| error.refusal())
        })
    }

    /// Proves to the far end of one TLS session that `holder` may open `channel`.
    fn prove(
        &self,
        holder: &ServiceName,
        target: &ServiceName,
        table: &TypeTable,
        channel: ChannelId,
        exporter: &[u8],
    ) -> Result<Presented, Refusal> {
        let chain = self.find(holder, &opening(target, table))?;
        let internal =
            |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::Internal, error.to_string());
        let key = self
            .keys
            .key(holder, Epoch::FIRST, SystemTime::now())
            .map_err(|error| internal(&error))?;
        Presented::new(chain, key.as_ref(), channel, exporter).map_err(|error| internal(&error))
    }

    fn grants_of(&self, holder: &ServiceName) -> Vec<GrantSummary> {
        self.wallet
            .borrow()
            .of(holder)
            .map(|held| GrantSummary {
                target: held.capability.target.to_string(),
                contract: held.capability.contract.to_string(),
                not_after_unix: unix(held.capability.not_after.to_system_time()),
                ceiling: held.capability.lane_ceiling,
            })
            .collect()
    }
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

fn opening<'a>(target: &'a ServiceName, table: &'a TypeTable) -> Opening<'a> {
    Opening {
        target,
        contract: &table.contract,
        version: table.version,
        epoch: Epoch::new(u64::MAX),
    }
}

fn read_chain(path: &Path) -> Result<Chain, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Chain::from_pem(&text).map_err(|error| error.to_string())
}

/// Serves one request of a domain.
pub(crate) fn serve(node: &Rc<Node>, domain: DomainId, line: Line, request: Request) {
    line.answer(&request, answer(node, domain, &request));
}

fn answer(node: &Node, id: DomainId, request: &Request) -> Answer {
    let message = SecurityContract::decode(request.index, &request.body)
        .map_err(|error| Refusal::from(weft::Error::from(error)))?;
    let (name, role) = node
        .domains
        .borrow()
        .get(&id)
        .map(|domain| (domain.name.clone(), domain.role))
        .ok_or_else(|| Refusal::new(RefusalCode::Closed, "this domain is not attached"))?;
    match message {
        SecurityRequest::WhoAmI(_) => reply(&Identity {
            name,
            node: node.name().clone(),
            cluster: node.cluster().clone(),
            domain: id,
        }),
        SecurityRequest::ListGrants(_) => reply(&Grants {
            grants: node.security.grants_of(&name),
        }),
        SecurityRequest::Prove(prove) => {
            if role != DomainRole::Gateway {
                return Err(Refusal::new(
                    RefusalCode::NotAllowed,
                    "only the gateway asks for proofs",
                ));
            }
            let channel = node.carried(prove.channel)?;
            let proof = node.security.prove(
                &channel.holder,
                &channel.target,
                &channel.table,
                prove.channel,
                &prove.exporter,
            )?;
            let der = |chain: &Chain| {
                chain
                    .certificates()
                    .iter()
                    .map(|link| link.to_vec())
                    .collect()
            };
            reply(&Proof {
                capability_chain: der(&proof.capability_chain),
                identity_chain: der(&proof.identity_chain),
                signature: proof.signature.as_bytes().to_vec(),
            })
        }
    }
}
