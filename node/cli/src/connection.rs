//! The command line as a client of its node: the one module that touches the client library.
//!
//! A command attaches under its own name (`--as`) and reaches exactly what that name was granted,
//! as any other domain.

use std::path::PathBuf;
use std::time::Duration;

use weft::{Domain, DynamicEndpoint, Endpoint};
use weft_contract::{Accepts, Contract, Message};
use weft_node_control::NodeControl;
use weft_types::{NodeName, RefusalCode, ServiceName};

use crate::arguments::{Global, SOCKET_NAME};
use crate::error::CliError;

/// A domain attached to the local node, with the time that its calls may take.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    domain: Domain,
    timeout: Duration,
}

impl Connection {
    /// Attaches to the node that the global options name.
    pub(crate) fn attach(global: &Global) -> Result<Self, CliError> {
        Self::to(
            global.data()?.clone(),
            global.identity.clone(),
            global.timeout,
        )
    }

    /// Attaches to the node with this data directory.
    pub(crate) fn to(
        data: PathBuf,
        identity: ServiceName,
        timeout: Duration,
    ) -> Result<Self, CliError> {
        let socket = data.join(SOCKET_NAME);
        let domain = Domain::attach(&socket, identity).map_err(|error| match error.code() {
            RefusalCode::Unreachable => CliError::NoNode {
                data,
                reason: error.refusal().text.clone(),
            },
            _ => error.into(),
        })?;
        Ok(Self { domain, timeout })
    }

    /// The node that we are attached to.
    pub(crate) fn node(&self) -> &NodeName {
        &self.domain.identity().node
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens a typed channel to a service.
    pub(crate) fn open<C: Contract>(&self, service: &ServiceName) -> Result<Endpoint<C>, CliError> {
        Ok(self.domain.open(service)?)
    }

    /// Opens a channel to a service whose contract we learn from it.
    pub(crate) fn open_dynamic(&self, service: &ServiceName) -> Result<DynamicEndpoint, CliError> {
        Ok(self.domain.open_dynamic(service)?)
    }

    /// Opens a channel to the daemon of a node.
    pub(crate) fn kernel(&self, node: &NodeName) -> Result<Kernel, CliError> {
        Ok(Kernel {
            endpoint: self.open(&ServiceName::of_node(node))?,
            timeout: self.timeout,
        })
    }

    /// Opens a channel to the daemon of the local node.
    pub(crate) fn local_kernel(&self) -> Result<Kernel, CliError> {
        self.kernel(self.node())
    }
}

/// A channel to a node's daemon.
#[derive(Debug)]
pub(crate) struct Kernel {
    endpoint: Endpoint<NodeControl>,
    timeout: Duration,
}

impl Kernel {
    /// Sends one message of the contract `node.control` and waits for its reply.
    pub(crate) fn ask<M>(
        &mut self,
        message: &M,
    ) -> Result<<NodeControl as Accepts<M>>::Reply, CliError>
    where
        M: Message,
        NodeControl: Accepts<M>,
    {
        self.ask_within(message, self.timeout)
    }

    /// As [`Kernel::ask`], for messages that may take longer than others.
    pub(crate) fn ask_within<M>(
        &mut self,
        message: &M,
        timeout: Duration,
    ) -> Result<<NodeControl as Accepts<M>>::Reply, CliError>
    where
        M: Message,
        NodeControl: Accepts<M>,
    {
        Ok(self.endpoint.call(message, timeout)?)
    }
}

impl From<weft::Error> for CliError {
    fn from(error: weft::Error) -> Self {
        Self::Refused(error.into())
    }
}
