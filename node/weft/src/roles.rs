//! What this binary does for each command that the command line leaves to it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use tokio::runtime::{Builder, Runtime};
use weft_authority::NodeIssuer;
use weft_capability::{IdentityError, InstanceKeys, NodeIdentity};
use weft_cli::arguments::{
    CaInitArgs, CaNodeArgs, GatewayArgs, Global, GrantArgs, NodeArgs, ServiceArgs,
};
use weft_cli::{CliError, Output, Roles};
use weft_daemon::Config;
use weft_types::RefusalCode;

use crate::process::prepare;
use crate::{authority, gateway};

/// The binary, as the command line sees it.
pub(crate) struct Binary;

impl Roles for Binary {
    fn node(&self, global: &Global, args: NodeArgs) -> Result<(), CliError> {
        if let Some(parent) = args.die_with_parent {
            follow(parent)?;
        }
        prepare(args.debuggable, true)?;
        let data = global.data()?.clone();
        let identity = identity(&data)?;
        identity
            .check_is(args.name.as_ref(), None)
            .map_err(untrusted)?;
        let issuer = NodeIssuer::load(&data, SystemTime::now()).map_err(untrusted)?;
        let mut peers = BTreeMap::new();
        for peer in args.peers {
            if peer.node != *identity.name() {
                peers.insert(peer.node, peer.address);
            }
        }
        let config = Config {
            directory: args.directory.unwrap_or_else(|| identity.name().clone()),
            data,
            listen: args.listen,
            peers,
            program: std::env::current_exe()
                .map_err(|error| CliError::internal("the path of this program", error))?,
            budget_bytes: args.budget * 1024 * 1024,
            debuggable: args.debuggable,
        };
        let keys = InstanceKeys::new(Box::new(issuer));
        runtime()?
            .block_on(weft_daemon::run(config, identity, keys))
            .map_err(CliError::from)
    }

    fn gateway(&self, global: &Global, args: GatewayArgs) -> Result<(), CliError> {
        die_with_node()?;
        prepare(debuggable(), false)?;
        let identity = identity(global.data()?)?;
        runtime()?.block_on(gateway::run(identity, args.listen))
    }

    fn service(&self, _: &Global, args: ServiceArgs) -> Result<(), CliError> {
        die_with_node()?;
        prepare(debuggable(), false)?;
        match args.program.as_str() {
            "kv" => kv_service::run().map_err(|error| CliError::Refused(error.into())),
            other => Err(CliError::refused(
                RefusalCode::UnknownService,
                format!(
                    "no service {other:?} is built in; there is: kv. Another program is started with --binary PATH"
                ),
            )),
        }
    }

    fn ca_init(&self, args: CaInitArgs) -> Result<Output, CliError> {
        authority::init(&args)
    }

    fn ca_node(&self, args: CaNodeArgs) -> Result<Output, CliError> {
        authority::node(&args)
    }

    fn grant(&self, args: GrantArgs) -> Result<Output, CliError> {
        authority::grant(&args)
    }
}

/// Whether the node that started this process lets others look into it.
fn debuggable() -> bool {
    std::env::var_os(weft::bootstrap::DEBUGGABLE).is_some_and(|value| value == "1")
}

fn runtime() -> Result<Runtime, CliError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::internal("runtime", error))
}

fn identity(data: &Path) -> Result<NodeIdentity, CliError> {
    let read = |file: &str| -> io::Result<Vec<u8>> { std::fs::read(data.join(file)) };
    NodeIdentity::load(read, SystemTime::now()).map_err(untrusted)
}

fn untrusted(error: IdentityError) -> CliError {
    let code = match &error {
        IdentityError::Expired { .. } => RefusalCode::Expired,
        _ => RefusalCode::Untrusted,
    };
    CliError::refused(code, error)
}

/// A process that a node started ends with it, even by SIGKILL.
fn die_with_node() -> Result<(), CliError> {
    weft_local_ipc::die_with_parent().map_err(|error| CliError::internal("tie to the node", error))
}

/// Ends this process when its parent does, which has to be `parent`: it may have died already.
fn follow(parent: u32) -> Result<(), CliError> {
    die_with_node()?;
    let now = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    if now.is_none_or(|now| now.get().unsigned_abs() != parent) {
        return Err(CliError::Interrupted);
    }
    Ok(())
}
