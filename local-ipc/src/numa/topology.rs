//! What the machine has: its nodes with processors, memory, distances and measured speed.
//!
//! Read from sysfs, `/sys/devices/system/node` unless a test names another root. The kernel writes
//! these files and we still bound every number in them: a container may show a tree of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::list;

/// The most nodes a machine has; Linux is built for no more. A larger number is refused.
pub const MAX_NODES: u32 = 1024;
/// The most processors a machine has; Linux is built for no more. A larger number is refused.
pub const MAX_CPUS: u32 = 8192;
/// The longest file that is read. The longest honest one, the distances of 1,024 nodes, has 4 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Where Linux describes its nodes.
const SYSFS: &str = "/sys/devices/system/node";

/// The number of a NUMA node, below [`MAX_NODES`]. Not a node of the fabric, which is a machine.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NumaNode(u32);

impl NumaNode {
    /// A node by its number, whether the machine has it or not. `None` from [`MAX_NODES`] on.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < MAX_NODES {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for NumaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NUMA node {}", self.0)
    }
}

/// Why the nodes of a machine are not known.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A kernel without NUMA, or a container that does not show sysfs.
    #[error("the kernel does not describe its NUMA nodes: {} is not there", .0.display())]
    NotThere(PathBuf),
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that says nothing we understand, or a number out of bounds.
    #[error("{} does not say what the kernel's documentation says it does", .0.display())]
    Malformed(PathBuf),
}

/// How fast a node's memory is from the processors nearest to it, as the firmware says (HMAT).
///
/// `None` is "not known": many machines have no such table, and a 0 in it means the same.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Performance {
    /// Nanoseconds of a read.
    pub read_latency_ns: Option<u32>,
    /// Nanoseconds of a write.
    pub write_latency_ns: Option<u32>,
    /// Megabytes a second, reading.
    pub read_bandwidth_mb_s: Option<u32>,
    /// Megabytes a second, writing.
    pub write_bandwidth_mb_s: Option<u32>,
}

/// One node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeReport {
    /// Which.
    pub node: NumaNode,
    /// Its processors, ascending. Empty for a node that is memory only.
    pub cpus: Vec<u32>,
    /// Its memory in bytes; 0 for a node that is processors only.
    pub memory_bytes: u64,
    /// What of it is free, in bytes.
    pub free_bytes: u64,
    /// The distance to each node, in the order of [`Topology::nodes`]: 10 is its own, 20 twice as
    /// far. Empty if the kernel does not say.
    pub distances: Vec<u32>,
    /// Its memory as seen by the nearest processors.
    pub performance: Performance,
}

impl NodeReport {
    /// Its processors in the form `0-3,8`.
    #[must_use]
    pub fn cpu_list(&self) -> String {
        list::format(&self.cpus)
    }
}

/// The nodes of a machine. There is at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topology {
    nodes: Vec<NodeReport>,
}

impl Topology {
    /// The machine's nodes, as they are now.
    ///
    /// # Errors
    ///
    /// [`TopologyError`]: a kernel without NUMA, or a sysfs that cannot be read.
    pub fn of_machine() -> Result<Self, TopologyError> {
        Self::read(Path::new(SYSFS))
    }

    /// The nodes that a tree in the form of `/sys/devices/system/node` describes.
    ///
    /// # Errors
    ///
    /// [`TopologyError`], by the first file that is missing or says nonsense.
    pub fn read(root: &Path) -> Result<Self, TopologyError> {
        if !root.is_dir() {
            return Err(TopologyError::NotThere(root.to_owned()));
        }
        let path = root.join("online");
        let online = list::parse(&read(&path)?, MAX_NODES).filter(|nodes| !nodes.is_empty());
        let online = online.ok_or(TopologyError::Malformed(path))?;
        let nodes = online
            .iter()
            .map(|&number| read_node(root, NumaNode(number), online.len()))
            .collect::<Result<_, _>>()?;
        Ok(Self { nodes })
    }

    /// All nodes, by number.
    #[must_use]
    pub fn nodes(&self) -> &[NodeReport] {
        &self.nodes
    }

    /// One node, if the machine has it.
    #[must_use]
    pub fn node(&self, node: NumaNode) -> Option<&NodeReport> {
        self.nodes.iter().find(|report| report.node == node)
    }

    /// The node that a processor belongs to.
    #[must_use]
    pub fn node_of_cpu(&self, cpu: u32) -> Option<NumaNode> {
        let has = |report: &&NodeReport| report.cpus.binary_search(&cpu).is_ok();
        self.nodes.iter().find(has).map(|report| report.node)
    }

    /// The one node that all of these processors belong to, if there is one.
    #[must_use]
    pub fn node_of_cpus(&self, cpus: &[u32]) -> Option<NumaNode> {
        let (first, rest) = cpus.split_first()?;
        let node = self.node_of_cpu(*first)?;
        rest.iter()
            .all(|cpu| self.node_of_cpu(*cpu) == Some(node))
            .then_some(node)
    }

    /// The distance from one node's processors to another's memory: 10 is near.
    #[must_use]
    pub fn distance(&self, from: NumaNode, to: NumaNode) -> Option<u32> {
        let column = self.nodes.iter().position(|report| report.node == to)?;
        self.node(from)?.distances.get(column).copied()
    }
}

fn read_node(root: &Path, node: NumaNode, nodes: usize) -> Result<NodeReport, TopologyError> {
    let folder = root.join(format!("node{}", node.get()));
    let path = folder.join("cpulist");
    let cpus = list::parse(&read(&path)?, MAX_CPUS)
        .ok_or_else(|| TopologyError::Malformed(path.clone()))?;
    let path = folder.join("meminfo");
    let text = read(&path)?;
    let memory = |what| meminfo_bytes(&text, what);
    let (memory_bytes, free_bytes) = memory("MemTotal:")
        .zip(memory("MemFree:"))
        .ok_or(TopologyError::Malformed(path))?;
    Ok(NodeReport {
        node,
        cpus,
        memory_bytes,
        free_bytes,
        distances: read_distances(&folder.join("distance"), nodes)?,
        performance: read_performance(&folder)?,
    })
}

/// Of the line `Node 0 MemTotal:  1024 kB`, the bytes.
fn meminfo_bytes(text: &str, what: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.split_once(what))?.1;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

fn read_distances(path: &Path, nodes: usize) -> Result<Vec<u32>, TopologyError> {
    let Some(text) = read_if_there(path)? else {
        return Ok(Vec::new());
    };
    // The firmware's table has a byte for each.
    let distances: Option<Vec<u32>> = text
        .split_whitespace()
        .map(|word| word.parse::<u8>().ok().map(u32::from))
        .collect();
    distances
        .filter(|distances| distances.len() == nodes)
        .ok_or_else(|| TopologyError::Malformed(path.to_owned()))
}

/// Class 0 is the nearest initiator of any kind, which may be a device; class 1 the nearest
/// processor. Older kernels have class 0 only.
fn read_performance(folder: &Path) -> Result<Performance, TopologyError> {
    let figure = |what: &str| {
        for class in ["access1", "access0"] {
            let path = folder.join(class).join("initiators").join(what);
            if let Some(text) = read_if_there(&path)? {
                let figure: u32 = text
                    .trim()
                    .parse()
                    .map_err(|_| TopologyError::Malformed(path))?;
                return Ok((figure > 0).then_some(figure));
            }
        }
        Ok(None)
    };
    Ok(Performance {
        read_latency_ns: figure("read_latency")?,
        write_latency_ns: figure("write_latency")?,
        read_bandwidth_mb_s: figure("read_bandwidth")?,
        write_bandwidth_mb_s: figure("write_bandwidth")?,
    })
}

fn read(path: &Path) -> Result<String, TopologyError> {
    read_if_there(path)?.ok_or_else(|| TopologyError::NotThere(path.to_owned()))
}

/// A small file's text; `None` if there is no such file.
fn read_if_there(path: &Path) -> Result<Option<String>, TopologyError> {
    let unreadable = |source| TopologyError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let text = String::from_utf8(bytes).ok();
    text.filter(|text| text.len() as u64 <= MAX_FILE_BYTES)
        .map(Some)
        .ok_or_else(|| TopologyError::Malformed(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A tree of files as sysfs has it.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(online: &str) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.file("online", online);
            tree
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn node(&self, number: u32, cpus: &str, distance: &str) {
            self.file(&format!("node{number}/cpulist"), cpus);
            self.file(&format!("node{number}/distance"), distance);
            let meminfo = format!(
                "Node {number} MemTotal:         524288 kB\nNode {number} MemFree:   1024 kB\n"
            );
            self.file(&format!("node{number}/meminfo"), &meminfo);
        }

        fn hmat(&self, number: u32, class: &str, latency: &str, bandwidth: &str) {
            for (what, figure) in [("latency", latency), ("bandwidth", bandwidth)] {
                for way in ["read", "write"] {
                    let path = format!("node{number}/{class}/initiators/{way}_{what}");
                    self.file(&path, figure);
                }
            }
        }

        fn read(&self) -> Result<Topology, TopologyError> {
            Topology::read(self.0.path())
        }
    }

    fn node(number: u32) -> NumaNode {
        NumaNode::new(number).unwrap()
    }

    #[test]
    fn one_node_has_all_processors_and_no_figures() {
        let tree = Tree::new("0\n");
        tree.node(0, "0-3\n", "10\n");
        let topology = tree.read().unwrap();
        let [only] = topology.nodes() else {
            panic!("{topology:?}")
        };
        assert_eq!(only.cpus, [0, 1, 2, 3]);
        assert_eq!(only.cpu_list(), "0-3");
        assert_eq!((only.memory_bytes, only.free_bytes), (512 << 20, 1 << 20));
        assert_eq!(only.performance, Performance::default());
    }

    #[test]
    fn two_nodes_have_distances_both_ways() {
        let tree = Tree::new("0-1\n");
        tree.node(0, "0-1,4", "10 21\n");
        tree.node(1, "2-3", "31 10\n");
        let topology = tree.read().unwrap();
        assert_eq!(topology.distance(node(0), node(1)), Some(21));
        assert_eq!(topology.distance(node(1), node(0)), Some(31));
        assert_eq!(topology.distance(node(1), node(2)), None);
        assert_eq!(topology.node_of_cpu(4), Some(node(0)));
        assert_eq!(topology.node_of_cpu(5), None);
        assert_eq!(topology.node_of_cpus(&[2, 3]), Some(node(1)));
        assert_eq!(topology.node_of_cpus(&[1, 2]), None);
        assert_eq!(topology.node_of_cpus(&[]), None);
    }

    #[test]
    fn nodes_need_not_be_numbered_without_gaps() {
        let tree = Tree::new("0,8\n");
        tree.node(0, "0", "10 40");
        tree.node(8, "1", "40 10");
        let topology = tree.read().unwrap();
        assert_eq!(topology.distance(node(0), node(8)), Some(40));
        assert_eq!(topology.node(node(1)), None);
    }

    #[test]
    fn a_node_without_processors_has_its_figures_and_0_means_unknown() {
        let tree = Tree::new("0-2\n");
        for number in 0..3 {
            let cpus = ["0", "1", "\n"][number as usize];
            tree.node(number, cpus, "10 20 30");
        }
        tree.hmat(0, "access0", "80\n", "20480\n");
        tree.hmat(1, "access0", "0\n", "0\n");
        tree.hmat(2, "access0", "7\n", "7\n");
        tree.hmat(2, "access1", "200\n", "5120\n");
        let topology = tree.read().unwrap();
        let figures = |number| {
            let it = topology.node(node(number)).unwrap().performance;
            (it.read_latency_ns, it.write_bandwidth_mb_s)
        };
        assert_eq!(figures(0), (Some(80), Some(20480)));
        assert_eq!(figures(1), (None, None));
        assert_eq!(
            figures(2),
            (Some(200), Some(5120)),
            "the nearest processor's"
        );
        assert!(topology.nodes()[2].cpus.is_empty());
    }

    #[test]
    fn no_tree_at_all_is_a_kernel_without_numa() {
        let folder = tempfile::tempdir().unwrap();
        let error = Topology::read(&folder.path().join("node")).unwrap_err();
        assert!(matches!(error, TopologyError::NotThere(_)), "{error}");
    }

    #[test]
    fn garbage_in_any_file_is_an_error_that_names_it() {
        let long = "1".repeat(MAX_FILE_BYTES as usize + 1);
        for (file, texts) in [
            (
                "online",
                &["", "x", "1-0", "0-1024", "0-4294967295", &long][..],
            ),
            ("node1/cpulist", &["all", "8192", "0-99999999", &long]),
            ("node1/distance", &["", "10", "10 21 31", "10 256", "10 -1"]),
            (
                "node1/meminfo",
                &[
                    "",
                    "Node 1 MemTotal: 5 kB",
                    "Node 1 MemTotal: x kB\nNode 1 MemFree: 5 kB",
                ],
            ),
            ("node1/access0/initiators/read_latency", &["", "fast", "-1"]),
        ] {
            for text in texts {
                let tree = Tree::new("0-1");
                tree.node(0, "0", "10 21");
                tree.node(1, "1", "21 10");
                tree.file(file, text);
                let error = tree.read().unwrap_err();
                let named =
                    matches!(&error, TopologyError::Malformed(path) if path.ends_with(file));
                assert!(named, "{file}: {error}");
            }
        }
    }

    #[test]
    fn a_number_that_no_machine_has_is_no_node() {
        assert!(NumaNode::new(MAX_NODES).is_none());
        assert_eq!(NumaNode::new(MAX_NODES - 1).unwrap().get(), 1023);
    }

    #[test]
    fn a_node_that_goes_while_we_read_is_an_error() {
        let tree = Tree::new("0-1");
        tree.node(0, "0", "10 21");
        let error = tree.read().unwrap_err();
        assert!(matches!(error, TopologyError::NotThere(_)), "{error}");
    }
}
