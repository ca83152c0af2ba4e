//! What system tests stand on: the real binary, run as real processes, in a directory of their own.
//!
//! A test asks for a [`Cluster`], types commands at it and looks at the answers ([`Answer`]), kills
//! processes by the numbers that `weft ps` gave, and ends. Whatever happens to the test, a panic too,
//! nothing of the cluster is left; and a test that ends well with [`Cluster::shut_down`] checks that
//! the nodes themselves left nothing, which is a promise of theirs.
//!
//! Functions here panic where a test cannot go on, with all that the process said. Nothing waits
//! without a deadline.

mod binary;
mod cluster;
mod compose;
pub mod contracts;
mod process;
mod processes;

pub use binary::weft_binary;
pub use cluster::{
    Cluster, ClusterOptions, Node, free_udp_ports, issue_node, make_ca, node_command,
};
pub use compose::{Compose, docker_is_there};
pub use process::{Answer, Finished, Started, run, start, weft};
pub use processes::{is_running, kill, processes_in, wait_until_gone};

use std::time::{Duration, Instant};

/// Tries until `attempt` gives something, and panics with its last words once `patience` is over.
///
/// # Panics
///
/// If it takes longer.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => {
                panic!("{what}: not after {} s: {reason}", patience.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_waited_for_and_what_never_comes_is_not() {
        let mut left = 3;
        let found = eventually("countdown", Duration::from_secs(5), || {
            left -= 1;
            if left == 0 {
                Ok("there")
            } else {
                Err(format!("{left} left"))
            }
        });
        assert_eq!(found, "there");
        let never = std::panic::catch_unwind(|| {
            eventually("nothing", Duration::from_millis(100), || {
                Err::<(), _>("still not".to_owned())
            })
        });
        let text = never.expect_err("must give up");
        assert!(
            text.downcast_ref::<String>()
                .is_some_and(|text| text.contains("still not"))
        );
    }
}
