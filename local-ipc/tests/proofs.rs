//! Holds what the compiler cannot: that each unsafe operation is argued where it stands, and that each
//! atomic ordering names the other end of its edge.
//!
//! Both are counted, file by file, so that one more is a decision: whoever adds it changes the table
//! here, and a reviewer sees that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How many lines with `unsafe` each file has. Files without are not listed.
const UNSAFE: &[(&str, usize)] = &[
    ("heap/loan.rs", 2),
    ("in_place.rs", 2),
    ("models/memory.rs", 2),
    ("models/words.rs", 2),
    ("note_ring.rs", 2),
    ("prefetch.rs", 4),
    ("raw.rs", 17),
    ("region/owned.rs", 1),
    ("rows.rs", 1),
    ("sys/linux/credentials.rs", 1),
    ("sys/linux/numa.rs", 3),
    ("words.rs", 2),
];

/// Lines above an ordering in which its label may stand.
const REACH: usize = 12;

/// Labels that are one end of many edges.
const COMMON: &str = "every label";

fn sources() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((name, text.lines().map(str::to_owned).collect()));
            }
        }
    }
    files.sort();
    files
}

/// A line without its comment and strings.
fn code(line: &str) -> &str {
    let line = line.split("//").next().unwrap_or("");
    if line.contains('"') { "" } else { line }
}

fn is_unsafe(line: &str) -> bool {
    code(line)
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .any(|word| word == "unsafe")
}

/// Unsafe operations without an argument in the comment above (or, of a function, in its docs).
fn unargued(lines: &[String]) -> Vec<usize> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !is_unsafe(line) {
            continue;
        }
        let argued = lines[..at]
            .iter()
            .rev()
            .take(REACH)
            .any(|above| above.contains("// SAFETY:") || above.contains("/// # Safety"));
        if !argued {
            found.push(at + 1);
        }
    }
    found
}

/// The labels of `ORDER(...)` comments in a line.
fn labels(line: &str) -> impl Iterator<Item = &str> {
    line.split("ORDER(")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

fn is_ordering(line: &str) -> bool {
    let code = code(line);
    ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"]
        .iter()
        .any(|order| code.contains(&format!("Ordering::{order}")))
}

/// Orderings without a label above them in the same function.
fn unlabelled(lines: &[String]) -> Vec<usize> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !is_ordering(line) {
            continue;
        }
        let labelled = lines[..=at]
            .iter()
            .rev()
            .take(REACH)
            .any(|above| labels(above).next().is_some());
        if !labelled {
            found.push(at + 1);
        }
    }
    found
}

/// The lines of a file before its tests: those use atomics as they like.
fn product(lines: &[String]) -> &[String] {
    let end = lines.iter().position(|line| {
        line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(loom, test")
    });
    &lines[..end.unwrap_or(lines.len())]
}

fn is_test(name: &str) -> bool {
    name.contains("hostile") || name.contains("model")
}

#[test]
fn every_unsafe_operation_is_argued() {
    for (name, lines) in sources() {
        let found = unargued(&lines);
        assert!(found.is_empty(), "{name}: no SAFETY above lines {found:?}");
    }
}

#[test]
fn unsafe_operations_are_counted() {
    let counted: BTreeMap<String, usize> = sources()
        .into_iter()
        .map(|(name, lines)| {
            let count = lines.iter().filter(|line| is_unsafe(line)).count();
            (name, count)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let listed: BTreeMap<String, usize> = UNSAFE
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    assert_eq!(counted, listed, "change the table here if you mean it");
}

#[test]
fn every_ordering_names_its_edge() {
    for (name, lines) in sources() {
        if is_test(&name) {
            continue;
        }
        let found = unlabelled(product(&lines));
        assert!(found.is_empty(), "{name}: no ORDER above lines {found:?}");
    }
}

#[test]
fn every_edge_has_two_ends() {
    let mut ends: BTreeMap<String, BTreeSet<(String, usize)>> = BTreeMap::new();
    for (name, lines) in sources() {
        for (at, line) in lines.iter().enumerate() {
            for label in labels(line) {
                let end = (name.clone(), at + 1);
                ends.entry(label.to_owned()).or_default().insert(end);
            }
        }
    }
    ends.remove(COMMON);
    assert!(!ends.is_empty());
    let lonely: Vec<_> = ends.iter().filter(|(_, ends)| ends.len() < 2).collect();
    assert!(lonely.is_empty(), "edges with one end: {lonely:?}");
}

#[test]
fn what_is_missing_is_found() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(unargued(&lines("let a = 1;\nunsafe { a() }")), [2]);
    assert!(unargued(&lines("// SAFETY: it is.\nunsafe { a() }")).is_empty());
    assert!(unargued(&lines("// nothing unsafe here")).is_empty());
    assert_eq!(unlabelled(&lines("x.load(Ordering::Acquire);")), [1]);
    let labelled = "// ORDER(edge): acquire.\nx.load(Ordering::Acquire);";
    assert!(unlabelled(&lines(labelled)).is_empty());
    assert_eq!(
        labels("// ORDER(one): as ORDER(two)").collect::<Vec<_>>(),
        ["one", "two"]
    );
}
