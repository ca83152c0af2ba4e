//! What the demo loads: the lines of a text, one key each.

use std::path::Path;

use crate::error::CliError;

/// The prefix of every loaded key. Clients write elsewhere, so the digest over this prefix must not
/// change during the run.
pub(crate) const LOAD_PREFIX: &str = "load/";

/// The longest file that is read, in bytes. It is held in memory, and so is the service's copy.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The longest line that becomes a value, in bytes.
const MAX_LINE_BYTES: usize = kv_messages::MAX_VALUE_BYTES;

/// Sources of Weft: real text that the binary carries with it.
const SOURCES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../../Cargo.toml")),
    (
        "types-ids.rs",
        include_str!("../../../../fabric/types/src/ids.rs"),
    ),
    (
        "types-lane.rs",
        include_str!("../../../../fabric/types/src/lane.rs"),
    ),
    (
        "types-message.rs",
        include_str!("../../../../fabric/types/src/message.rs"),
    ),
    (
        "types-name.rs",
        include_str!("../../../../fabric/types/src/name.rs"),
    ),
    (
        "types-refusal.rs",
        include_str!("../../../../fabric/types/src/refusal.rs"),
    ),
    (
        "contract-message.rs",
        include_str!("../../../../fabric/contract/src/message.rs"),
    ),
    (
        "contract-description.rs",
        include_str!("../../../../fabric/contract/src/description.rs"),
    ),
    ("cli-arguments.rs", include_str!("../arguments/mod.rs")),
    ("cli-control.rs", include_str!("../arguments/control.rs")),
    ("cli-roles.rs", include_str!("../arguments/roles.rs")),
    ("cli-error.rs", include_str!("../error.rs")),
    ("cli-output.rs", include_str!("../output.rs")),
    ("demo-check.rs", include_str!("check.rs")),
    ("demo-client.rs", include_str!("client.rs")),
    ("demo-cluster.rs", include_str!("cluster.rs")),
    ("demo-corpus.rs", include_str!("corpus.rs")),
    ("demo-latency.rs", include_str!("latency.rs")),
    ("demo-report.rs", include_str!("report.rs")),
    ("demo-report.html", include_str!("report.html")),
];

/// Keys and values to load.
#[derive(Clone, Debug)]
pub(crate) struct Corpus {
    /// What it is, for the report's heading.
    pub(crate) title: String,
    /// Key and value of each line, in order.
    pub(crate) lines: Vec<(String, Vec<u8>)>,
}

impl Corpus {
    /// The lines of this file, or the sources that come with the binary.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = file else {
            return Ok(Self::built_in());
        };
        let fail = |why: &dyn std::fmt::Display| {
            CliError::usage(format!("--load {}: {why}", path.display()))
        };
        let size = std::fs::metadata(path).map_err(|error| fail(&error))?.len();
        if size > MAX_FILE_BYTES {
            return Err(fail(&format!(
                "{size} bytes are too many, the limit is {MAX_FILE_BYTES}"
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
        let name = key_part(path);
        let mut corpus = Self {
            title: path.display().to_string(),
            lines: Vec::new(),
        };
        corpus.add(&name, &bytes).map_err(|why| fail(&why))?;
        if corpus.lines.is_empty() {
            return Err(fail(&"the file has no lines"));
        }
        Ok(corpus)
    }

    fn built_in() -> Self {
        let mut corpus = Self {
            title: format!("{} source files of Weft", SOURCES.len()),
            lines: Vec::new(),
        };
        for (name, text) in SOURCES {
            let added = corpus.add(name, text.as_bytes());
            debug_assert!(added.is_ok(), "{name}: {added:?}");
        }
        corpus
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if text.is_empty() {
            return Ok(());
        }
        for (position, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.len() > MAX_LINE_BYTES {
                return Err(format!(
                    "line {} has {} bytes, a value of kv takes {MAX_LINE_BYTES}",
                    position + 1,
                    line.len()
                ));
            }
            let key = format!("{LOAD_PREFIX}{name}/{:07}", position + 1);
            self.lines.push((key, line.to_vec()));
        }
        Ok(())
    }
}

/// A file's name as a part of a key: short, and without what would end it.
fn key_part(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars()
        .filter(|c| !c.is_control() && *c != '/')
        .take(80)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_key_and_their_order_is_the_files() {
        let mut corpus = Corpus {
            title: String::new(),
            lines: Vec::new(),
        };
        corpus.add("w", b"alpha\n\n\xff\xfe\nlast").unwrap();
        let keys: Vec<&str> = corpus.lines.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "load/w/0000001",
                "load/w/0000002",
                "load/w/0000003",
                "load/w/0000004"
            ]
        );
        assert!(keys.is_sorted());
        assert_eq!(corpus.lines[2].1, b"\xff\xfe");
        corpus.add("x", b"one\n").unwrap();
        assert_eq!(
            corpus.lines.len(),
            5,
            "a newline at the end begins no further line"
        );
    }

    #[test]
    fn the_sources_that_come_with_the_binary_are_real_text() {
        let corpus = Corpus::open(None).unwrap();
        assert!(corpus.lines.len() > 1000, "{}", corpus.lines.len());
        let mut keys: Vec<&String> = corpus.lines.iter().map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), corpus.lines.len(), "a key stands for two lines");
    }

    #[test]
    fn a_file_that_cannot_be_loaded_is_a_usage_error_that_names_it() {
        let missing = Corpus::open(Some(Path::new("/nowhere/words"))).unwrap_err();
        assert_eq!(missing.exit(), crate::Exit::Usage);
        assert!(missing.to_string().contains("/nowhere/words"), "{missing}");
        let mut corpus = Corpus {
            title: String::new(),
            lines: Vec::new(),
        };
        let error = corpus
            .add("w", &vec![b'x'; MAX_LINE_BYTES + 1])
            .unwrap_err();
        assert!(error.starts_with("line 1 has"), "{error}");
    }
}
