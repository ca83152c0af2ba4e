//! Weft itself: a cluster of two nodes, and typed calls of `kv` from its own node and from the other.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use kv_messages::{Get, GetReply, Kv, Put};
use weft::{Domain, Endpoint, ServiceName};
use weft_node_control::{NodeControl, PingPeer};
use weft_tests::Cluster;
use weft_types::NodeName;

use crate::Outcome;
use crate::measure::{Sample, Watched, round_trips, windowed};
use crate::role::{Part, Shape};
use weft_bench::machine::{self, Cores};

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks from here; it may do everything in a test cluster.
const HOLDER: &str = "operator";

/// Two nodes, all of n1 on the asking core and all of n2, with `kv`, on the answering one.
pub(crate) struct Fabric {
    cluster: Cluster,
    service: u32,
    near: u32,
    far: u32,
}

impl Fabric {
    pub(crate) fn start(cores: Cores) -> Outcome<Self> {
        let cluster = Cluster::start(2);
        cluster.run_kv("n2");
        let service = cluster.pid_of_service("n2", "kv");
        let near = cluster.pid_of_gateway("n1");
        let far = cluster.pid_of_gateway("n2");
        for pid in [cluster.node("n1").pid(), near] {
            machine::pin_process(pid, cores.ask)?;
        }
        for pid in [cluster.node("n2").pid(), far, service] {
            machine::pin_process(pid, cores.answer)?;
        }
        Ok(Self {
            cluster,
            service,
            near,
            far,
        })
    }

    /// The data directory of a node.
    pub(crate) fn data(&self, node: &str) -> String {
        self.cluster.node(node).data.display().to_string()
    }

    /// The socket of a node.
    pub(crate) fn socket(&self, node: &str) -> String {
        self.cluster
            .node(node)
            .data
            .join("weft.sock")
            .display()
            .to_string()
    }

    /// Who works when `kv` is called on its own machine.
    pub(crate) fn local(&self) -> Vec<Watched> {
        vec![watched("service", self.service)]
    }

    /// Who works when it is called from the other.
    pub(crate) fn remote(&self) -> Vec<Watched> {
        vec![
            watched("near gateway", self.near),
            watched("far gateway", self.far),
            watched("service", self.service),
        ]
    }

    /// Who works when one daemon pings the other.
    pub(crate) fn kernels(&self) -> Vec<Watched> {
        vec![
            watched("near daemon", self.cluster.node("n1").pid()),
            watched("near gateway", self.near),
            watched("far gateway", self.far),
            watched("far daemon", self.cluster.node("n2").pid()),
        ]
    }

    /// Stops the nodes and checks that nothing is left of them.
    pub(crate) fn shut_down(self) {
        self.cluster.shut_down();
    }
}

fn watched(part: &str, pid: u32) -> Watched {
    Watched {
        part: part.to_owned(),
        pid,
    }
}

pub(crate) fn ask(part: &Part, socket: &str) -> Outcome<Sample> {
    let domain = Domain::attach(Path::new(socket), HOLDER.parse()?)?;
    let mut kv: Endpoint<Kv> = domain.open(&"kv".parse()?)?;
    let key = format!("body-of-{}", part.body_bytes);
    kv.call(
        &Put {
            key: key.clone(),
            value: vec![7; part.body_bytes],
        },
        PATIENCE,
    )?;
    let get = Get { key };
    let check = |reply: GetReply| -> Outcome {
        match reply.entry {
            Some(entry) if entry.value.len() == part.body_bytes => Ok(()),
            _ => Err("kv does not hold what was put".into()),
        }
    };
    match part.shape {
        Shape::RoundTrip => round_trips(part.extent, &part.watched, || {
            check(kv.call(&get, PATIENCE)?)?;
            Ok(None)
        }),
        Shape::Window(window) => {
            let mut open = VecDeque::with_capacity(window);
            windowed(part.extent, &part.watched, window, |count| {
                for _ in 0..count {
                    open.push_back(kv.send(&get)?);
                }
                let ticket = open.pop_front().ok_or("nothing is open")?;
                check(kv.wait(ticket, PATIENCE)?)?;
                Ok(1)
            })
        }
    }
}

/// The daemon at `socket`, that of node `from`, pings that of `to` and tells how long it took.
pub(crate) fn ask_kernel(part: &Part, socket: &str, from: &str, to: &str) -> Outcome<Sample> {
    let domain = Domain::attach(Path::new(socket), HOLDER.parse()?)?;
    let from: NodeName = from.parse()?;
    let mut kernel: Endpoint<NodeControl> = domain.open(&ServiceName::of_node(&from))?;
    let ping = PingPeer { node: to.parse()? };
    round_trips(part.extent, &part.watched, || {
        let pong = kernel.call(&ping, PATIENCE)?;
        Ok(Some(Duration::from_nanos(pong.round_trip_nanos)))
    })
}
