//! `weft numa`: what the machine's NUMA nodes are, and what becomes of wishes for them.
//!
//! Whether memory can be placed depends on the machine, the kernel and the container, and none of
//! them can be asked. So this makes a region in each way that there is, and tells what the kernel
//! says of its pages. That nothing can be placed is an answer, not an error.

use std::num::NonZero;

use rustix::process::Pid;
use serde_json::{Value, json};
use weft_local_ipc::numa::{
    NodeReport, NumaNode, Outcome, Performance, Placement, Reason, Residence, Topology,
    TopologyError, pinned_node, residence_of_process,
};
use weft_local_ipc::{Geometry, OwnHalf, Start};
use weft_node_control::{DomainReport, Inventory};

use crate::arguments::Global;
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::{Output, table};
use crate::show::bytes;

/// What is placed to see whether it can be: as large as the half of a channel is by default.
const TRIAL: Geometry = Geometry::DEFAULT.fixed();

/// One way to place memory, by name, and what became of it.
type Trial = (String, Outcome);

/// Shows nodes, trials and, of a node that is named, where its domains' memory lies.
pub(crate) fn numa(global: &Global) -> Result<Output, CliError> {
    let topology = Topology::of_machine();
    let trials = ways(topology.as_ref().ok())
        .into_iter()
        .map(|(name, placement)| Ok((name, attempt(placement)?)))
        .collect::<Result<Vec<Trial>, CliError>>()?;
    let domains = match &global.data {
        Some(_) => Some(domains(global)?),
        None => None,
    };
    let mut text = topology_text(&topology);
    text.push('\n');
    text.push_str(&trials_text(&trials));
    if let Some(domains) = &domains {
        text.push('\n');
        text.push_str(&domains_text(domains));
    }
    let json = json!({
        "nodes": topology.as_ref().ok().map(|it| it.nodes().iter().map(node_json).collect::<Vec<_>>()),
        "why_unknown": topology.as_ref().err().map(ToString::to_string),
        "placements": trials.iter().map(trial_json).collect::<Vec<_>>(),
        "domains": domains.map(|it| it.iter().map(domain_json).collect::<Vec<_>>()),
    });
    Ok(Output::new(text, json))
}

/// The ways to place memory on this machine.
fn ways(topology: Option<&Topology>) -> Vec<(String, Placement)> {
    let mut ways = vec![
        ("anywhere".to_owned(), Placement::Anywhere),
        ("home".to_owned(), Placement::Home),
        (
            "receiver (this process)".to_owned(),
            Placement::Receiver(rustix::process::getpid()),
        ),
    ];
    for report in topology.map_or(&[][..], Topology::nodes) {
        ways.push((short(report.node), Placement::Node(report.node)));
    }
    ways
}

/// Places a region and gives it back.
fn attempt(placement: Placement) -> Result<Outcome, CliError> {
    match OwnHalf::create_placed(TRIAL, Start::default(), placement) {
        Ok((_, outcome)) => Ok(outcome),
        Err(error) => Err(CliError::internal("cannot make a region to place", error)),
    }
}

fn topology_text(topology: &Result<Topology, TopologyError>) -> String {
    let topology = match topology {
        Ok(topology) => topology,
        Err(error) => return format!("the NUMA nodes of this machine are not known: {error}\n"),
    };
    let heading = [
        "NUMA node",
        "cpus",
        "memory",
        "free",
        "distances",
        "read ns",
        "write ns",
        "read MB/s",
        "write MB/s",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(topology.nodes().iter().map(node_row));
    let mut text = table(&rows);
    if let Ok(Some(node)) = pinned_node(None, topology)
        && topology.nodes().len() > 1
    {
        text.push_str(&format!("this process is pinned to {node}\n"));
    }
    let known = |report: &NodeReport| report.performance != Performance::default();
    if !topology.nodes().iter().any(known) {
        text.push_str(
            "latency and bandwidth are not known: the firmware has no table of them (HMAT)\n",
        );
    }
    text
}

fn node_row(report: &NodeReport) -> Vec<String> {
    let figure = |figure: Option<u32>| figure.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let distances: Vec<String> = report.distances.iter().map(u32::to_string).collect();
    let cpus = report.cpu_list();
    let it = &report.performance;
    vec![
        report.node.get().to_string(),
        if cpus.is_empty() {
            "none".to_owned()
        } else {
            cpus
        },
        bytes(report.memory_bytes),
        bytes(report.free_bytes),
        distances.join(" "),
        figure(it.read_latency_ns),
        figure(it.write_latency_ns),
        figure(it.read_bandwidth_mb_s),
        figure(it.write_bandwidth_mb_s),
    ]
}

fn node_json(report: &NodeReport) -> Value {
    let it = &report.performance;
    json!({
        "node": report.node.get(),
        "cpus": report.cpus,
        "memory_bytes": report.memory_bytes,
        "free_bytes": report.free_bytes,
        "distances": report.distances,
        "read_latency_ns": it.read_latency_ns,
        "write_latency_ns": it.write_latency_ns,
        "read_bandwidth_mb_s": it.read_bandwidth_mb_s,
        "write_bandwidth_mb_s": it.write_bandwidth_mb_s,
    })
}

fn trials_text(trials: &[Trial]) -> String {
    let size = bytes(TRIAL.region_bytes());
    let mut rows = vec![vec![format!("a region of {size} at"), "outcome".to_owned()]];
    rows.extend(
        trials
            .iter()
            .map(|(name, outcome)| vec![name.clone(), outcome.to_string()]),
    );
    table(&rows)
}

fn trial_json((name, outcome): &Trial) -> Value {
    let (node, share, why) = match outcome {
        Outcome::Placed {
            node,
            share_percent,
        } => (Some(*node), Some(*share_percent), None),
        Outcome::NotPlaced(Reason::Elsewhere {
            node: _,
            share_percent,
        }) => (None, Some(*share_percent), Some(outcome.to_string())),
        Outcome::NotPlaced(_) => (None, None, Some(outcome.to_string())),
    };
    json!({
        "placement": name,
        "placed": outcome.is_placed(),
        "node": node.map(NumaNode::get),
        "share_percent": share,
        "why_not": why,
    })
}

/// A domain, and where the memory lies that it has mapped, or why that is not known.
type Domain = (DomainReport, Result<Residence, String>);

/// The domains of the local node.
fn domains(global: &Global) -> Result<Vec<Domain>, CliError> {
    let connection = Connection::attach(global)?;
    let node = connection.node().clone();
    let inventory = connection.kernel(&node)?.ask(&Inventory {})?;
    let domains = inventory.domains.into_iter().map(|domain| {
        let found = process(domain.pid)
            .ok_or_else(|| "its process is not visible from here".to_owned())
            .and_then(|pid| residence_of_process(pid).map_err(|error| not_readable(&error)));
        (domain, found)
    });
    Ok(domains.collect())
}

fn process(pid: u32) -> Option<Pid> {
    let pid = NonZero::new(i32::try_from(pid).ok()?)?;
    Pid::from_raw(pid.get())
}

fn not_readable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "only root can see it".to_owned(),
        std::io::ErrorKind::NotFound => {
            "its process has ended, or the kernel has no NUMA".to_owned()
        }
        _ => error.to_string(),
    }
}

fn domains_text(domains: &[Domain]) -> String {
    let heading = ["domain", "pid", "mapped pages"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    rows.extend(domains.iter().map(|(domain, found)| {
        let pages = match found {
            Ok(residence) => residence_text(residence),
            Err(why) => format!("not known: {why}"),
        };
        vec![domain.name.to_string(), domain.pid.to_string(), pages]
    }));
    table(&rows)
}

fn residence_text(residence: &Residence) -> String {
    let parts: Vec<String> = residence
        .pages()
        .map(|(node, pages)| format!("{pages} on {node}"))
        .collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

fn domain_json((domain, found): &Domain) -> Value {
    let pages = found.as_ref().ok().map(|residence| {
        residence
            .pages()
            .map(|(node, pages)| json!({ "node": node.get(), "pages": pages }))
            .collect::<Vec<_>>()
    });
    json!({
        "name": domain.name.as_str(),
        "pid": domain.pid,
        "mapped_pages": pages,
        "why_unknown": found.as_ref().err(),
    })
}

/// A node in a list, where what it is has been said.
fn short(node: NumaNode) -> String {
    format!("node {}", node.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_placed_is_not_placed_in_json_either() {
        let node = NumaNode::new(1).unwrap();
        let json = |outcome| trial_json(&("home".to_owned(), outcome));
        let placed = json(Outcome::Placed {
            node,
            share_percent: 100,
        });
        assert_eq!(
            (&placed["placed"], &placed["node"]),
            (&json!(true), &json!(1))
        );
        assert_eq!(placed["why_not"], Value::Null);
        for reason in [
            Reason::OneNode,
            Reason::NoRight,
            Reason::Elsewhere {
                node,
                share_percent: 40,
            },
        ] {
            let not = json(Outcome::NotPlaced(reason));
            assert_eq!(
                (&not["placed"], &not["node"]),
                (&json!(false), &Value::Null)
            );
            assert!(not["why_not"].as_str().unwrap().starts_with("not placed: "));
        }
    }

    #[test]
    fn a_machine_that_is_not_described_still_gets_an_answer() {
        let nowhere = Topology::read(std::path::Path::new("/nonexistent/node"));
        assert!(topology_text(&nowhere).contains("not known"));
        assert_eq!(ways(None).len(), 3);
    }

    #[test]
    fn a_node_without_processors_or_figures_has_no_empty_cells() {
        let report = NodeReport {
            node: NumaNode::new(2).unwrap(),
            cpus: Vec::new(),
            memory_bytes: 1 << 30,
            free_bytes: 0,
            distances: vec![41, 31, 10],
            performance: Performance {
                read_latency_ns: Some(200),
                ..Performance::default()
            },
        };
        let row = node_row(&report);
        let expected = [
            "2", "none", "1.0 GiB", "0 B", "41 31 10", "200", "-", "-", "-",
        ];
        assert_eq!(row, expected);
    }
}
