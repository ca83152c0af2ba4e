//! Where the shared memory of another process lies, by the kernel's own count, and where it may lie.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};

use rustix::process::Pid;

use super::list;
use super::placement::Residence;
use super::topology::{MAX_NODES, NumaNode};

/// How the kernel names our memory files in lists of mappings.
const OURS: &str = "/memfd:weft-";
/// The most that is read of such a list: some 100,000 mappings. The rest is not counted.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// On which nodes the pages of Weft's memory lie that a process has mapped, its own and its peers'.
/// A page that it has not touched yet is not counted.
///
/// # Errors
///
/// What the system says of `/proc/PID/numa_maps`: no such process, a kernel without NUMA, or no
/// right. As domains keep others of their user out ([`crate::harden_process`]), only root has it.
pub fn residence_of_process(process: Pid) -> io::Result<Residence> {
    let file = File::open(format!("/proc/{}/numa_maps", process.as_raw_nonzero()))?;
    let mut residence = Residence::default();
    for line in BufReader::new(file.take(MAX_LIST_BYTES)).lines() {
        let line = line?;
        for (node, pages) in pages_of(&line) {
            residence.add(node, pages);
        }
    }
    Ok(residence)
}

/// The nodes on which a process may have memory (`cpuset.mems` of its control group), ascending. Some
/// of them may not be there.
///
/// # Errors
///
/// What the system says of `/proc/PID/status`; `InvalidData` if the kernel does not say it there.
pub fn nodes_of_process(process: Pid) -> io::Result<Vec<NumaNode>> {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let text = std::fs::read_to_string(path)?;
    allowed_nodes(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Of the line `Mems_allowed_list: 0-1`, the nodes.
fn allowed_nodes(status: &str) -> Option<Vec<NumaNode>> {
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Mems_allowed_list:"))?;
    list::parse(list, MAX_NODES)?
        .into_iter()
        .map(NumaNode::new)
        .collect()
}

/// The words `N0=12` of a line about a memory file of ours.
fn pages_of(line: &str) -> impl Iterator<Item = (NumaNode, u64)> {
    let words = line.contains(OURS).then(|| line.split_ascii_whitespace());
    words.into_iter().flatten().filter_map(|word| {
        let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((NumaNode::new(node.parse().ok()?)?, pages.parse().ok()?))
    })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::numa::{Placement, Span};
    use crate::{Geometry, OwnHalf, Start};

    #[test]
    fn only_our_memory_files_are_counted() {
        let count = |line| {
            pages_of(line)
                .map(|(node, pages)| (node.get(), pages))
                .collect::<Vec<_>>()
        };
        let ours = "7f00 prefer=static:1 file=/memfd:weft-half\\040(deleted) dirty=9 N0=2 N1=7 kernelpagesize_kB=4";
        assert_eq!(count(ours), [(0, 2), (1, 7)]);
        for line in [
            "",
            "7f00 default file=/usr/lib/libc.so.6 mapped=5 N0=5",
            "7f00 default anon=3 dirty=3 N0=3",
            "7f00 default file=/memfd:weft-half N=1 N1024=5 N0=x N0 N1=-1 Nn=2",
        ] {
            assert_eq!(count(line), [], "{line}");
        }
    }

    #[test]
    fn the_nodes_that_a_process_may_use_are_those_of_its_control_group() {
        let numbers = |status| {
            let nodes: Option<Vec<NumaNode>> = allowed_nodes(status);
            nodes.map(|nodes| nodes.into_iter().map(NumaNode::get).collect::<Vec<_>>())
        };
        let status = "Name:\tx\nMems_allowed:\t00000005\nMems_allowed_list:\t0,2-3\nx:\t1\n";
        assert_eq!(numbers(status), Some(vec![0, 2, 3]));
        for status in ["", "Mems_allowed:\t1\n", "Mems_allowed_list:\tall\n"] {
            assert_eq!(numbers(status), None, "{status}");
        }
        let ours = nodes_of_process(rustix::process::getpid());
        assert!(!ours.unwrap().is_empty());
    }

    #[test]
    fn our_own_halves_are_found() {
        let process = rustix::process::getpid();
        let (half, _) =
            OwnHalf::create_placed(Geometry::DEFAULT, Start::default(), Placement::Anywhere)
                .unwrap();
        // A container may forbid the question; then nothing has touched the pages either.
        let (Ok(asked), Ok(found)) = (half.residence(), residence_of_process(process)) else {
            return;
        };
        let total = |residence: &Residence| residence.pages().map(|(_, pages)| pages).sum::<u64>();
        assert!(total(&found) >= total(&asked) && total(&asked) > 0);
        assert!(Span::new(std::ptr::null(), 0).residence().is_ok());
    }
}
