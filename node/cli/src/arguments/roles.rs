//! Commands that run or equip a node. Their work is done by the binary that composes all roles, see
//! [`Roles`](crate::Roles): the command line itself never touches a CA key or the daemon's code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use weft_types::{ClusterName, ContractName, NodeName, ServiceName};

/// `weft node`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example, two nodes on one machine:\n  \
                  weft node --data n1 --listen 127.0.0.1:7001 --peer n2=127.0.0.1:7002 --directory n1\n  \
                  weft node --data n2 --listen 127.0.0.1:7002 --peer n1=127.0.0.1:7001 --directory n1")]
pub struct NodeArgs {
    /// The node's name; must be the one in its certificate, which is also the default
    #[arg(long)]
    pub name: Option<NodeName>,
    /// UDP address for the other nodes
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7001")]
    pub listen: SocketAddr,
    /// Another node and where it listens, once for each: n2=127.0.0.1:7002 or n2=host-name:7002
    #[arg(long = "peer", value_name = "NODE=ADDR")]
    pub peers: Vec<Peer>,
    /// The node that holds the directory; the same on every node of the cluster [default: this node]
    #[arg(long, value_name = "NODE")]
    pub directory: Option<NodeName>,
    /// How much shared memory each process of this node may take for its channels, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=1_048_576))]
    pub budget: u64,
    /// Let debuggers look into the node's processes, and so into every message; shows in `weft ps`
    #[arg(long)]
    pub debuggable: bool,
    /// End cleanly when this process, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub die_with_parent: Option<u32>,
}

/// A node and the address where others reach it. The host part is resolved at each dial.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its name, which its certificate must carry.
    pub node: NodeName,
    /// `host:port`.
    pub address: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape =
            || format!("{text:?} is no peer: write NODE=HOST:PORT, as in n2=127.0.0.1:7002");
        let (node, address) = text.split_once('=').ok_or_else(shape)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(shape)?;
        let port: u16 = port.parse().map_err(|_| shape())?;
        if host.is_empty() || port == 0 {
            return Err(shape());
        }
        Ok(Self {
            node: NodeName::new(node).map_err(|error| error.to_string())?,
            address: address.to_owned(),
        })
    }
}

/// `weft gateway`: started by a node daemon only, which hands it its socket as standard input.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// UDP address for the other nodes
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
}

/// `weft service`: started by a node daemon only, which hands it its socket as standard input.
#[derive(Clone, Debug, Args)]
pub struct ServiceArgs {
    /// Which of the programs that are built in
    pub program: String,
}

/// `weft ca`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft ca init --dir ca --cluster shop\n  weft ca node n1 --dir ca --out n1"
)]
pub struct CaArgs {
    /// Which of the CA's commands.
    #[command(subcommand)]
    pub command: CaCommand,
}

/// The commands of `weft ca`.
#[derive(Clone, Debug, Subcommand)]
pub enum CaCommand {
    /// Make the roots of a new cluster
    ///
    /// Makes the CA directory of a new cluster: two roots (for nodes and for capabilities) and the
    /// issuers below them. Whoever has this directory can join and command the cluster: keep it off
    /// the nodes. An existing CA is never overwritten.
    Init(CaInitArgs),
    /// Make the certificate and data directory of a node
    ///
    /// Issues a node's certificate and writes the data directory with which `weft node` starts it:
    /// key, certificate, the cluster's roots, and the issuer for the services that run there.
    Node(CaNodeArgs),
}

/// `weft ca init`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  weft ca init --dir ca --cluster shop")]
pub struct CaInitArgs {
    /// The CA directory to make
    #[arg(long, value_name = "DIR", default_value = "ca")]
    pub dir: PathBuf,
    /// The cluster's name
    #[arg(long, default_value = "demo")]
    pub cluster: ClusterName,
}

/// `weft ca node`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  weft ca node n1 --dir ca --out n1\n  weft node --data n1 --listen 127.0.0.1:7001"
)]
pub struct CaNodeArgs {
    /// The node's name
    pub node: NodeName,
    /// The CA directory that `weft ca init` made
    #[arg(long, value_name = "DIR", default_value = "ca")]
    pub dir: PathBuf,
    /// The node's data directory to make [default: the node's name]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `weft grant`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft grant shop kv --contract kv --ca ca --to n1 --to n2\n  \
                  weft grant operator 'node/*' --contract node.control --ca ca --to n1"
)]
pub struct GrantArgs {
    /// Who may: the name under which a service runs or a client attaches
    pub holder: ServiceName,
    /// To which service, or `node/*`
    pub target: GrantTarget,
    /// Under which contract
    #[arg(long)]
    pub contract: ContractName,
    /// The CA directory
    #[arg(long, value_name = "DIR", default_value = "ca")]
    pub ca: PathBuf,
    /// Data directories of the nodes where the holder runs; without one, the certificate is printed
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub to: Vec<PathBuf>,
    /// How many hours it is valid
    #[arg(long, default_value_t = 24 * 30, value_parser = clap::value_parser!(u32).range(1..=24 * 90))]
    pub hours: u32,
}

/// What a capability is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GrantTarget {
    /// One service.
    Service(ServiceName),
    /// The daemons of all nodes: `node/*`.
    EveryNode,
}

impl FromStr for GrantTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "node/*" {
            return Ok(Self::EveryNode);
        }
        ServiceName::new(text)
            .map(Self::Service)
            .map_err(|error| format!("{error}; or `node/*` for the daemons of all nodes"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, tests::parse};
    use super::*;

    #[test]
    fn a_node_knows_its_peers_by_name_and_address() {
        let cli = parse(&[
            "node",
            "--data",
            "n1",
            "--listen",
            "127.0.0.1:7001",
            "--peer",
            "n2=127.0.0.1:7002",
            "--peer",
            "n3=host-3.lan:7003",
            "--directory",
            "n1",
        ]);
        let Command::Node(node) = cli.unwrap().command else {
            panic!("not a node")
        };
        assert_eq!(node.peers.len(), 2);
        assert_eq!(node.peers[1].node.as_str(), "n3");
        assert_eq!(node.peers[1].address, "host-3.lan:7003");
    }

    #[test]
    fn a_peer_without_name_or_port_is_refused_with_the_expected_shape() {
        for bad in [
            "n2",
            "n2=",
            "n2=127.0.0.1",
            "=127.0.0.1:1",
            "n2=:7002",
            "n2=h:0",
            "n2=h:70000",
        ] {
            let error = bad.parse::<Peer>().unwrap_err();
            assert!(
                error.contains("n2=127.0.0.1:7002") || error.contains("node name"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn a_grant_names_one_service_or_every_node() {
        let cli = parse(&[
            "grant",
            "operator",
            "node/*",
            "--contract",
            "node.control",
            "--to",
            "n1",
            "n2",
        ]);
        let Command::Grant(grant) = cli.unwrap().command else {
            panic!("not a grant")
        };
        assert_eq!(grant.target, GrantTarget::EveryNode);
        assert_eq!(grant.to.len(), 2);
        assert!("k*".parse::<GrantTarget>().is_err());
        assert!(
            parse(&["grant", "operator", "kv"]).is_err(),
            "a contract is required"
        );
    }
}
