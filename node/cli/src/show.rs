//! How the answers of node daemons look: as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};
use weft_node_control::{
    ChannelReport, DirectoryEntry, DomainReport, DomainRole, InventoryReply, LogRecord, MoveReport,
    Path, ServiceReport, ServiceState,
};
use weft_types::NodeName;

use crate::output::{Output, table};

/// Several answers as one.
pub(crate) fn all(outputs: Vec<Output>) -> Output {
    let texts: Vec<&str> = outputs
        .iter()
        .map(|output| output.text.trim_end())
        .collect();
    let text = texts.join("\n\n");
    Output::new(
        text,
        outputs.into_iter().map(|output| output.json).collect(),
    )
}

/// What a node runs.
pub(crate) fn inventory(reply: &InventoryReply) -> Output {
    let mut text = format!(
        "node {} of cluster {}, pid {}, up {}\n",
        reply.node,
        reply.cluster,
        reply.pid,
        uptime(reply.uptime_ms)
    );
    section(
        &mut text,
        "services",
        SERVICE_HEADING,
        reply.services.iter().map(service_row),
    );
    section(
        &mut text,
        "domains",
        DOMAIN_HEADING,
        reply.domains.iter().map(domain_row),
    );
    section(
        &mut text,
        "channels",
        CHANNEL_HEADING,
        reply.channels.iter().map(channel_row),
    );
    let peers = reply.peers.iter().map(|peer| {
        vec![
            peer.node.to_string(),
            peer.address.clone(),
            if peer.connected {
                "connected"
            } else {
                "not connected"
            }
            .to_owned(),
            peer.channels.to_string(),
        ]
    });
    section(
        &mut text,
        "peers",
        &["node", "address", "state", "channels"],
        peers,
    );
    Output::new(text, inventory_json(reply))
}

const SERVICE_HEADING: &[&str] = &[
    "name", "contract", "epoch", "state", "restarts", "pid", "detail",
];
const DOMAIN_HEADING: &[&str] = &["id", "name", "role", "pid", "used", "budget", "note"];
const CHANNEL_HEADING: &[&str] = &[
    "channel", "holder", "target", "client", "server", "epoch", "path",
];

fn service_row(service: &ServiceReport) -> Vec<String> {
    vec![
        service.name.to_string(),
        service.contract.to_string(),
        service.epoch.get().to_string(),
        state(service.state).to_owned(),
        service.restarts.to_string(),
        service
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        service.detail.clone(),
    ]
}

fn domain_row(domain: &DomainReport) -> Vec<String> {
    vec![
        domain.id.get().to_string(),
        domain.name.to_string(),
        role(domain.role).to_owned(),
        domain.pid.to_string(),
        bytes(domain.used_bytes),
        bytes(domain.budget_bytes),
        if domain.debuggable { "debuggable" } else { "" }.to_owned(),
    ]
}

fn channel_row(channel: &ChannelReport) -> Vec<String> {
    vec![
        channel.channel.to_string(),
        channel.holder.to_string(),
        channel.target.to_string(),
        channel.client.clone(),
        channel.server.clone(),
        channel.epoch.get().to_string(),
        path(channel.path).to_owned(),
    ]
}

fn inventory_json(reply: &InventoryReply) -> Value {
    let services: Vec<Value> = reply
        .services
        .iter()
        .map(|service| {
            json!({
                "name": service.name.as_str(),
                "contract": service.contract.as_str(),
                "epoch": service.epoch.get(),
                "state": state(service.state),
                "restarts": service.restarts,
                "pid": service.pid,
                "detail": service.detail,
            })
        })
        .collect();
    let domains: Vec<Value> = reply
        .domains
        .iter()
        .map(|domain| {
            json!({
                "id": domain.id.get(),
                "name": domain.name.as_str(),
                "role": role(domain.role),
                "pid": domain.pid,
                "used_bytes": domain.used_bytes,
                "budget_bytes": domain.budget_bytes,
                "debuggable": domain.debuggable,
            })
        })
        .collect();
    let channels: Vec<Value> = reply
        .channels
        .iter()
        .map(|channel| {
            json!({
                "channel": channel.channel.to_string(),
                "holder": channel.holder.as_str(),
                "target": channel.target.as_str(),
                "client": channel.client,
                "server": channel.server,
                "epoch": channel.epoch.get(),
                "path": path(channel.path),
            })
        })
        .collect();
    let peers: Vec<Value> = reply
        .peers
        .iter()
        .map(|peer| {
            json!({
                "node": peer.node.as_str(),
                "address": peer.address,
                "connected": peer.connected,
                "channels": peer.channels,
            })
        })
        .collect();
    json!({
        "node": reply.node.as_str(),
        "cluster": reply.cluster.as_str(),
        "pid": reply.pid,
        "uptime_ms": reply.uptime_ms,
        "services": services,
        "domains": domains,
        "channels": channels,
        "peers": peers,
    })
}

/// Where services live.
pub(crate) fn directory(entries: &[DirectoryEntry]) -> Output {
    let mut text = String::new();
    let rows = entries.iter().map(|entry| {
        vec![
            entry.service.to_string(),
            entry.node.to_string(),
            entry.epoch.get().to_string(),
        ]
    });
    section(&mut text, "directory", &["service", "node", "epoch"], rows);
    let json = entries
        .iter()
        .map(|entry| {
            json!({
                "service": entry.service.as_str(),
                "node": entry.node.as_str(),
                "epoch": entry.epoch.get(),
            })
        })
        .collect();
    Output::new(text, json)
}

/// Lines of a node's log.
pub(crate) fn log(node: &NodeName, records: &[LogRecord]) -> Output {
    let mut text = String::new();
    for record in records {
        let seconds = record.unix_ms / 1000;
        let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>6}  {hours:02}:{minutes:02}:{:02}.{:03}Z  {:<5}  {}",
            record.number,
            seconds % 60,
            record.unix_ms % 1000,
            record.level,
            record.text
        );
    }
    if records.is_empty() {
        text.push_str("no such lines");
    }
    let lines: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "number": record.number,
                "unix_ms": record.unix_ms,
                "level": record.level,
                "text": record.text,
            })
        })
        .collect();
    Output::new(text, json!({ "node": node.as_str(), "records": lines }))
}

/// A move that was made.
pub(crate) fn moved(report: &MoveReport) -> Output {
    let mut text = format!(
        "{} moved from {} to {}, {}: {} of state, {} channels, answered nobody for {:.2} ms\n",
        report.service,
        report.from,
        report.to,
        report.epoch,
        bytes(report.bytes),
        report.channels,
        report.blackout_ms
    );
    let rows = report
        .steps_ms
        .iter()
        .map(|step| vec![step.step.clone(), format!("{:.3}", step.milliseconds)]);
    section(&mut text, "steps", &["step", "ms"], rows);
    let steps: serde_json::Map<String, Value> = report
        .steps_ms
        .iter()
        .map(|step| (step.step.clone(), json!(step.milliseconds)))
        .collect();
    let json = json!({
        "service": report.service.as_str(),
        "from": report.from.as_str(),
        "to": report.to.as_str(),
        "epoch": report.epoch.get(),
        "steps_ms": steps,
        "bytes": report.bytes,
        "channels": report.channels,
        "blackout_ms": report.blackout_ms,
    });
    Output::new(text, json)
}

/// Round trips to a node's daemon, in nanoseconds.
pub(crate) fn ping(from: &str, to: &NodeName, round_trips_nanos: &[u64]) -> Output {
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let mut text = String::new();
    for nanos in round_trips_nanos {
        let _ = writeln!(text, "{to} answered {from} in {:.3} ms", ms(*nanos));
    }
    if round_trips_nanos.len() > 1 {
        let mut sorted = round_trips_nanos.to_vec();
        sorted.sort_unstable();
        let _ = writeln!(
            text,
            "round trip of {}: min {:.3} ms, median {:.3} ms, max {:.3} ms",
            sorted.len(),
            ms(sorted[0]),
            ms(sorted[sorted.len() / 2]),
            ms(sorted[sorted.len() - 1])
        );
    }
    let round_trips: Vec<f64> = round_trips_nanos.iter().map(|nanos| ms(*nanos)).collect();
    Output::new(
        text,
        json!({ "from": from, "to": to.as_str(), "round_trips_ms": round_trips }),
    )
}

fn section(
    text: &mut String,
    title: &str,
    heading: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) {
    if !text.is_empty() {
        text.push('\n');
    }
    let mut all = vec![heading.iter().map(|cell| (*cell).to_owned()).collect()];
    all.extend(rows);
    if all.len() == 1 {
        text.push_str(&format!("{title}: none\n"));
        return;
    }
    text.push_str(&format!("{title}\n"));
    for line in table(&all).lines() {
        text.push_str(&format!("  {line}\n"));
    }
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Starting => "starting",
        ServiceState::Active => "active",
        ServiceState::Frozen => "frozen",
        ServiceState::Committing => "committing",
        ServiceState::Incoming => "incoming",
        ServiceState::Stopping => "stopping",
        ServiceState::Failed => "failed",
    }
}

fn role(role: DomainRole) -> &'static str {
    match role {
        DomainRole::App => "app",
        DomainRole::Service => "service",
        DomainRole::Gateway => "gateway",
    }
}

fn path(path: Path) -> &'static str {
    match path {
        Path::Local => "local",
        Path::RemoteOut => "remote_out",
        Path::RemoteIn => "remote_in",
    }
}

/// Bytes with a unit, for people.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        ..60 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use weft_node_control::{PeerReport, StepTime};
    use weft_types::{ClusterName, Epoch, ServiceName};

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn reply() -> InventoryReply {
        InventoryReply {
            node: node("n1"),
            cluster: ClusterName::new("demo").unwrap(),
            pid: 7,
            uptime_ms: 61_500,
            domains: Vec::new(),
            services: vec![ServiceReport {
                name: ServiceName::new("kv").unwrap(),
                contract: "kv".parse().unwrap(),
                epoch: Epoch::new(3),
                state: ServiceState::Committing,
                restarts: 1,
                pid: None,
                detail: "waits for the directory on n2".to_owned(),
            }],
            channels: Vec::new(),
            peers: vec![PeerReport {
                node: node("n2"),
                address: "127.0.0.1:7002".to_owned(),
                connected: false,
                channels: 0,
            }],
        }
    }

    #[test]
    fn an_inventory_shows_a_service_that_waits_and_a_peer_that_is_away() {
        let output = inventory(&reply());
        for part in [
            "node n1 of cluster demo, pid 7, up 1 min 1 s",
            "committing",
            "waits for the",
            "not connected",
        ] {
            assert!(
                output.text.contains(part),
                "{part} is missing in\n{}",
                output.text
            );
        }
        assert!(output.text.contains("channels: none"));
        assert_eq!(output.json["services"][0]["state"], "committing");
        assert_eq!(output.json["peers"][0]["connected"], false);
    }

    #[test]
    fn several_nodes_are_one_document() {
        let output = all(vec![inventory(&reply()), inventory(&reply())]);
        assert_eq!(output.json.as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_move_shows_each_step_in_its_order() {
        let step = |step: &str| StepTime {
            step: step.to_owned(),
            milliseconds: 1.5,
        };
        let output = moved(&MoveReport {
            service: ServiceName::new("kv").unwrap(),
            from: node("n1"),
            to: node("n2"),
            epoch: Epoch::new(2),
            steps_ms: ["prepare", "freeze", "commit"].map(step).to_vec(),
            bytes: 3 << 20,
            channels: 6,
            blackout_ms: 4.25,
        });
        assert!(
            output
                .text
                .contains("3.0 MiB of state, 6 channels, answered nobody for 4.25 ms")
        );
        let keys: Vec<&String> = output.json["steps_ms"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        assert_eq!(keys, ["prepare", "freeze", "commit"]);
    }

    #[test]
    fn pings_are_summed_up_when_there_are_several() {
        let output = ping("n1", &node("n2"), &[3_000_000, 1_000_000, 2_000_000]);
        assert!(
            output
                .text
                .contains("min 1.000 ms, median 2.000 ms, max 3.000 ms"),
            "{}",
            output.text
        );
        assert_eq!(output.json["round_trips_ms"], json!([3.0, 1.0, 2.0]));
    }

    #[test]
    fn sizes_have_a_unit() {
        let shown = [0, 1023, 1024, 5 << 30].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]);
    }
}
