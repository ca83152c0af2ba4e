//! What a node daemon is told when it starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use weft_types::NodeName;

/// The settings of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's directory: certificates, grants, socket, what it has to remember.
    pub data: PathBuf,
    /// The UDP address on which the gateway listens for other nodes.
    pub listen: SocketAddr,
    /// The other nodes: host and port of each, resolved anew at each dial.
    pub peers: BTreeMap<NodeName, String>,
    /// The node that holds the directory. In a cluster it is the same for all.
    pub directory: NodeName,
    /// The program that plays every role: this very binary.
    pub program: PathBuf,
    /// How much memory the channels of one domain may take together, in bytes. A channel takes some
    /// 1.3 MiB of each of its ends.
    pub budget_bytes: u64,
    /// Whether processes of this node may be looked into with a debugger.
    pub debuggable: bool,
}

impl Config {
    /// The node's Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data.join("weft.sock")
    }

    /// Where capability certificates lie, one chain to a file.
    #[must_use]
    pub fn grants(&self) -> PathBuf {
        self.data.join("grants")
    }

    /// Where the directory lies, on the node that holds it.
    #[must_use]
    pub fn directory_file(&self) -> PathBuf {
        self.data.join("directory.json")
    }

    /// Which services this node runs, to start them again after a restart.
    #[must_use]
    pub fn services_file(&self) -> PathBuf {
        self.data.join("services.json")
    }
}
