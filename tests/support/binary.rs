//! Where the `weft` binary is. Cargo tells a test only of binaries of its own package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a binary to test in place of the one that is built.
const OVERRIDE: &str = "WEFT_BINARY";

/// The `weft` binary of the profile and target directory that this test was built with. Built, or
/// brought up to date, on the first call in a process.
///
/// # Panics
///
/// If it cannot be built.
pub fn weft_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// A test runs as `<target>/<profile>/deps/<name>-<hash>`, or with a triple before the profile.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let deps = test.parent().expect("a test lies in deps/");
    let output = deps
        .parent()
        .expect("deps/ lies in the profile's directory");
    let target = output
        .parent()
        .expect("the profile's directory lies in the target directory");
    let profile = match output.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(other) => other,
        None => panic!("{} is no directory of a profile", output.display()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args([
        "build",
        "--quiet",
        "--locked",
        "--bin",
        "weft",
        "--profile",
        profile,
    ]);
    // With a triple in the path, `target` is the triple's directory.
    if let Some(triple) = triple_of(target) {
        cargo.args(["--target", triple]);
        cargo
            .arg("--target-dir")
            .arg(target.parent().expect("the target directory"));
    } else {
        cargo.arg("--target-dir").arg(target);
    }
    let done = cargo.output().expect("cargo");
    assert!(
        done.status.success(),
        "cargo build --bin weft: {}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    output.join("weft")
}

/// The triple, if a directory of build output is called by one.
fn triple_of(directory: &Path) -> Option<&str> {
    let name = directory.file_name()?.to_str()?;
    (name.split('-').count() >= 3 && name.contains("linux")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_there_and_runs() {
        let done = Command::new(weft_binary())
            .arg("--version")
            .output()
            .expect("runs");
        assert!(done.status.success());
        assert!(String::from_utf8_lossy(&done.stdout).starts_with("weft "));
    }

    #[test]
    fn only_a_triple_is_taken_for_one() {
        assert_eq!(
            triple_of(Path::new("/x/target/x86_64-unknown-linux-gnu")),
            Some("x86_64-unknown-linux-gnu")
        );
        assert_eq!(triple_of(Path::new("/x/target")), None);
        assert_eq!(triple_of(Path::new("/x/my-linux")), None);
    }
}
