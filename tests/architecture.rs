//! Holds the layers of the workspace, and what must not be known where.
//!
//! A crate may use crates of a lower layer and none beside or above it. The table says which layer
//! each package is in; cargo's own metadata says what each package uses. What a package uses only in
//! its tests may come from above, but each such case is listed here, so that it stays a decision.
//!
//! The checks are functions over a small [`Workspace`]; the tests at the end break synthetic ones, so
//! that a checker that finds nothing is not taken for a workspace that is in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// Every package of the workspace and its layer. The crate at the top composes; the one at the bottom
/// knows nothing.
const LAYERS: &[(&str, u8)] = &[
    ("weft-tests", 7),
    ("weft-bench", 6),
    ("weft-bin", 5),
    ("weft-daemon", 4),
    ("weft-cli", 4),
    ("kv-service", 4),
    ("weft-authority", 4),
    ("weft", 3),
    ("weft-gateway", 3),
    ("weft-sim", 3),
    ("weft-protocol", 2),
    ("weft-local-ipc", 2),
    ("weft-node-control", 2),
    ("kv-messages", 2),
    ("weft-contract", 1),
    ("weft-capability", 1),
    // Writes code for `weft-contract` and is used by it, so it stands below.
    ("weft-contract-derive", 0),
    ("weft-types", 0),
];

/// Dev-dependencies on a package beside or above: `(who, whom)`, each with its reason.
const TESTS_THAT_LOOK_UP: &[(&str, &str)] = &[
    // Two gateways talk TLS in a test, with certificates that only an authority can issue.
    ("weft-gateway", "weft-authority"),
];

/// What must not be in the dependencies of a package, through however many steps.
const NEVER: &[(&str, &[&str])] = &[
    // Decides and never does: it has seen no socket, no task and no clock.
    (
        "weft-protocol",
        &[
            "tokio",
            "quinn",
            "quinn-proto",
            "rustls",
            "mio",
            "socket2",
            "rustix",
        ],
    ),
    // The simulator runs the same protocol code without any of the real world.
    (
        "weft-sim",
        &["tokio", "quinn", "quinn-proto", "rustls", "mio"],
    ),
    // The simulator is never linked into the product, nor is anything that only tests need.
    ("weft-bin", &["weft-sim", "loom", "proptest", "trybuild"]),
    // An app links no runtime and no network.
    ("weft", &["tokio", "quinn", "rustls", "weft-daemon"]),
    // A gateway stands in for remote peers; keys that issue certificates are not for it.
    ("weft-gateway", &["weft-authority", "rcgen"]),
    ("weft-daemon", &["quinn"]),
    // A client like any other.
    (
        "weft-cli",
        &["weft-daemon", "weft-gateway", "weft-authority", "quinn"],
    ),
];

/// Below this layer nothing may use a runtime or the network, whatever the package.
const FIRST_LAYER_WITH_NETWORK: u8 = 3;
/// What counts as a runtime or the network.
const NETWORK: &[&str] = &["tokio", "quinn", "quinn-proto", "mio"];

/// The one package that may contain `unsafe`.
const UNSAFE_ALLOWED: &str = "weft-local-ipc";

/// What the checks need to know about the packages of the workspace.
#[derive(Clone, Debug, Default)]
struct Workspace {
    packages: BTreeMap<String, Package>,
    /// For each package, the workspace's and others', what it is built with.
    uses: BTreeMap<String, BTreeSet<String>>,
    /// `[workspace.lints]`, as `rust.unsafe_code` → `forbid`.
    lints: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
struct Package {
    /// Names of the packages under `[dependencies]` and `[build-dependencies]`.
    dependencies: BTreeSet<String>,
    /// Names of the packages under `[dev-dependencies]`.
    dev_dependencies: BTreeSet<String>,
    lints: Lints,
}

#[derive(Clone, Debug, Default)]
enum Lints {
    /// No `[lints]` at all.
    #[default]
    None,
    /// `workspace = true`.
    Workspace,
    /// A table of its own.
    Own(BTreeMap<String, String>),
}

/// Packages that the table lacks, and lines of the table without a package.
fn table_errors(workspace: &Workspace, layers: &[(&str, u8)]) -> Vec<String> {
    let listed: BTreeSet<&str> = layers.iter().map(|(name, _)| *name).collect();
    let missing = workspace
        .packages
        .keys()
        .filter(|name| !listed.contains(name.as_str()))
        .map(|name| format!("{name} has no layer: add it to LAYERS"));
    let stale = layers
        .iter()
        .filter(|(name, _)| !workspace.packages.contains_key(*name))
        .map(|(name, _)| format!("{name} has a layer but is no package of the workspace"));
    missing.chain(stale).collect()
}

/// Dependencies beside or above, and lines of the exceptions that excuse nothing.
fn layer_errors(
    workspace: &Workspace,
    layers: &[(&str, u8)],
    tests_that_look_up: &[(&str, &str)],
) -> Vec<String> {
    let layer: BTreeMap<&str, u8> = layers.iter().copied().collect();
    let mut errors = Vec::new();
    let mut excused = BTreeSet::new();
    for (name, package) in &workspace.packages {
        let Some(own) = layer.get(name.as_str()) else {
            continue;
        };
        let not_lower = |other: &&String| layer.get(other.as_str()).is_some_and(|it| it >= own);
        for other in package.dependencies.iter().filter(not_lower) {
            errors.push(format!(
                "{name} (layer {own}) uses {other} (layer {})",
                layer[other.as_str()]
            ));
        }
        for other in package.dev_dependencies.iter().filter(not_lower) {
            let pair = (name.as_str(), other.as_str());
            if tests_that_look_up.contains(&pair) {
                excused.insert(pair);
            } else {
                errors.push(format!(
                    "the tests of {name} (layer {own}) use {other} (layer {}): list it or drop it",
                    layer[other.as_str()]
                ));
            }
        }
    }
    for pair in tests_that_look_up {
        if !excused.contains(pair) {
            errors.push(format!(
                "the tests of {} no longer use {}: drop the exception",
                pair.0, pair.1
            ));
        }
    }
    errors
}

/// Everything that a package is built with, through however many steps.
fn closure<'a>(workspace: &'a Workspace, package: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![package];
    while let Some(next) = open.pop() {
        for other in workspace.uses.get(next).into_iter().flatten() {
            if found.insert(other.as_str()) {
                open.push(other);
            }
        }
    }
    found
}

/// Packages that are built with what they must not know.
fn knowledge_errors(
    workspace: &Workspace,
    layers: &[(&str, u8)],
    never: &[(&str, &[&str])],
) -> Vec<String> {
    let by_layer = layers
        .iter()
        .filter(|(_, layer)| *layer < FIRST_LAYER_WITH_NETWORK)
        .map(|(name, _)| (*name, NETWORK));
    let mut errors = BTreeSet::new();
    for (name, forbidden) in never.iter().copied().chain(by_layer) {
        if !workspace.packages.contains_key(name) {
            errors.insert(format!(
                "{name} has a rule but is no package of the workspace"
            ));
            continue;
        }
        let built_with = closure(workspace, name);
        for other in forbidden
            .iter()
            .filter(|other| built_with.contains(**other))
        {
            errors.insert(format!("{name} is built with {other}"));
        }
    }
    errors.into_iter().collect()
}

/// Packages that could contain `unsafe`, or that have slipped out of the workspace's lints.
fn lint_errors(workspace: &Workspace) -> Vec<String> {
    let mut errors = Vec::new();
    if workspace.lints.get("rust.unsafe_code").map(String::as_str) != Some("forbid") {
        errors.push("the workspace's lints do not forbid unsafe_code".to_owned());
    }
    for (name, package) in &workspace.packages {
        match &package.lints {
            Lints::None => errors.push(format!("{name} takes no lints")),
            Lints::Workspace if name == UNSAFE_ALLOWED => errors.push(format!(
                "{name} takes the workspace's lints, which forbid the unsafe code that it is for"
            )),
            Lints::Workspace => {}
            Lints::Own(_) if name != UNSAFE_ALLOWED => {
                errors.push(format!("{name} has lints of its own"));
            }
            Lints::Own(own) => errors.extend(own_lint_errors(name, own, &workspace.lints)),
        }
    }
    errors
}

/// The lints of the one package that has its own: the workspace's, but for `unsafe_code`.
fn own_lint_errors(
    name: &str,
    own: &BTreeMap<String, String>,
    workspace: &BTreeMap<String, String>,
) -> Vec<String> {
    let expected = |lint: &str, level: &str| {
        if lint == "rust.unsafe_code" {
            // A module that needs it has to say so.
            "deny".to_owned()
        } else {
            level.to_owned()
        }
    };
    workspace
        .iter()
        .filter_map(|(lint, level)| {
            let wanted = expected(lint, level);
            let found = own.get(lint);
            (found != Some(&wanted))
                .then(|| format!("{name}: {lint} is {found:?}, expected {wanted}"))
        })
        .collect()
}

/// Reads the workspace that this test belongs to.
fn this_workspace() -> Workspace {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace");
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .features(CargoOpt::SomeFeatures(Vec::new()))
        // Packages for other systems are not downloaded to answer a question about this one.
        .other_options(vec![
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .exec()
        .expect("cargo metadata");
    let manifest = read_manifest(&root.join("Cargo.toml"));
    Workspace {
        packages: packages(&metadata),
        uses: uses(&metadata),
        lints: lint_levels(&manifest["workspace"]["lints"]),
    }
}

fn packages(metadata: &Metadata) -> BTreeMap<String, Package> {
    let of_kind = |package: &cargo_metadata::Package, dev: bool| {
        package
            .dependencies
            .iter()
            .filter(|dependency| (dependency.kind == DependencyKind::Development) == dev)
            .map(|dependency| dependency.name.clone())
            .collect()
    };
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let manifest = read_manifest(package.manifest_path.as_std_path());
            let entry = Package {
                dependencies: of_kind(package, false),
                dev_dependencies: of_kind(package, true),
                lints: lints_of(&manifest),
            };
            (package.name.to_string(), entry)
        })
        .collect()
}

/// Who is built with whom; what is only for tests is left out.
fn uses(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let name = |id: &cargo_metadata::PackageId| metadata[id].name.to_string();
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in &resolve.nodes {
        let built_with = node.deps.iter().filter(|dependency| {
            dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind != DependencyKind::Development)
        });
        // Two versions of a package count as one: what either brings is there.
        uses.entry(name(&node.id))
            .or_default()
            .extend(built_with.map(|dependency| name(&dependency.pkg)));
    }
    uses
}

fn read_manifest(path: &Path) -> toml::Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn lints_of(manifest: &toml::Value) -> Lints {
    match manifest.get("lints") {
        None => Lints::None,
        Some(lints) if lints.get("workspace").and_then(toml::Value::as_bool) == Some(true) => {
            Lints::Workspace
        }
        Some(lints) => Lints::Own(lint_levels(lints)),
    }
}

/// `{ rust: { unsafe_code: "forbid" } }` as `rust.unsafe_code` → `forbid`; a lint may also be a table
/// with its level.
fn lint_levels(lints: &toml::Value) -> BTreeMap<String, String> {
    let mut levels = BTreeMap::new();
    for (tool, table) in lints.as_table().into_iter().flatten() {
        for (lint, value) in table.as_table().into_iter().flatten() {
            let level = value.get("level").unwrap_or(value);
            let level = level.as_str().unwrap_or_default().to_owned();
            levels.insert(format!("{tool}.{lint}"), level);
        }
    }
    levels
}

#[track_caller]
fn assert_none(errors: &[String]) {
    assert!(errors.is_empty(), "\n  {}\n", errors.join("\n  "));
}

#[test]
fn every_package_of_the_workspace_has_a_layer() {
    assert_none(&table_errors(&this_workspace(), LAYERS));
}

#[test]
fn a_package_uses_only_lower_layers() {
    assert_none(&layer_errors(&this_workspace(), LAYERS, TESTS_THAT_LOOK_UP));
}

#[test]
fn no_package_is_built_with_what_it_must_not_know() {
    let workspace = this_workspace();
    // If the graph were empty, nothing could be found in it.
    assert!(closure(&workspace, "weft-gateway").contains("quinn"));
    assert_none(&knowledge_errors(&workspace, LAYERS, NEVER));
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_local_ipc() {
    assert_none(&lint_errors(&this_workspace()));
}

mod the_checker {
    use super::*;

    const SYNTHETIC: &[(&str, u8)] = &[("app", 4), ("peer", 4), ("middle", 2), ("base", 0)];

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn levels(levels: &[(&str, &str)]) -> BTreeMap<String, String> {
        levels
            .iter()
            .map(|(lint, level)| ((*lint).to_owned(), (*level).to_owned()))
            .collect()
    }

    /// app → middle → base, peer → base; in order.
    fn in_order() -> Workspace {
        let package = |dependencies: &[&str]| Package {
            dependencies: names(dependencies),
            dev_dependencies: BTreeSet::new(),
            lints: Lints::Workspace,
        };
        let packages: BTreeMap<String, Package> = [
            ("app", package(&["middle", "serde"])),
            ("peer", package(&["base"])),
            ("middle", package(&["base"])),
            ("base", package(&[])),
        ]
        .into_iter()
        .map(|(name, package)| (name.to_owned(), package))
        .collect();
        let uses = packages
            .iter()
            .map(|(name, package)| (name.clone(), package.dependencies.clone()))
            .collect();
        Workspace {
            packages,
            uses,
            lints: levels(&[("rust.unsafe_code", "forbid"), ("clippy.todo", "deny")]),
        }
    }

    fn change(package: &str, change: impl FnOnce(&mut Package)) -> Workspace {
        let mut workspace = in_order();
        change(workspace.packages.get_mut(package).expect("package"));
        workspace
    }

    #[test]
    fn finds_nothing_where_all_is_in_order() {
        let workspace = in_order();
        assert_none(&table_errors(&workspace, SYNTHETIC));
        assert_none(&layer_errors(&workspace, SYNTHETIC, &[]));
        assert_none(&knowledge_errors(
            &workspace,
            SYNTHETIC,
            &[("app", &["tokio"])],
        ));
        assert_none(&lint_errors(&workspace));
    }

    #[test]
    fn finds_a_package_without_a_layer_and_a_layer_without_a_package() {
        let mut workspace = in_order();
        workspace
            .packages
            .insert("stray".to_owned(), Package::default());
        workspace.packages.remove("peer");
        let errors = table_errors(&workspace, SYNTHETIC);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].starts_with("stray") && errors[1].starts_with("peer"),
            "{errors:?}"
        );
    }

    #[test]
    fn finds_a_dependency_beside_and_one_above() {
        for (who, whom) in [("app", "peer"), ("base", "middle")] {
            let workspace = change(who, |package| {
                package.dependencies.insert(whom.to_owned());
            });
            let errors = layer_errors(&workspace, SYNTHETIC, &[]);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].starts_with(who) && errors[0].contains(whom),
                "{errors:?}"
            );
        }
    }

    #[test]
    fn finds_a_test_that_looks_up_unless_it_is_listed_and_a_listed_one_that_does_not() {
        let workspace = change("base", |package| {
            package.dev_dependencies.insert("app".to_owned());
        });
        assert_eq!(layer_errors(&workspace, SYNTHETIC, &[]).len(), 1);
        assert_none(&layer_errors(&workspace, SYNTHETIC, &[("base", "app")]));
        assert_eq!(
            layer_errors(&in_order(), SYNTHETIC, &[("base", "app")]).len(),
            1
        );
    }

    #[test]
    fn finds_what_comes_in_through_others() {
        let mut workspace = in_order();
        workspace
            .uses
            .insert("base".to_owned(), names(&["wrapper"]));
        workspace
            .uses
            .insert("wrapper".to_owned(), names(&["tokio"]));
        // A circle, as dev-dependencies can make one, ends the search all the same.
        workspace
            .uses
            .insert("tokio".to_owned(), names(&["wrapper"]));
        let errors = knowledge_errors(&workspace, SYNTHETIC, &[("app", &["tokio"])]);
        assert_eq!(
            errors,
            [
                "app is built with tokio",
                "base is built with tokio",
                "middle is built with tokio"
            ]
        );
        assert_eq!(
            knowledge_errors(&workspace, &[], &[("gone", &["tokio"])]).len(),
            1
        );
    }

    #[test]
    fn finds_lints_that_are_missing_weaker_or_somebodys_own() {
        let mut lax = in_order();
        lax.lints = levels(&[("rust.unsafe_code", "deny")]);
        assert_eq!(lint_errors(&lax).len(), 1);
        for lints in [
            Lints::None,
            Lints::Own(levels(&[("rust.unsafe_code", "forbid")])),
        ] {
            let workspace = change("base", |package| package.lints = lints);
            assert_eq!(lint_errors(&workspace).len(), 1);
        }
    }

    #[test]
    fn lets_local_ipc_have_unsafe_code_and_nothing_else() {
        let with = |lints: Lints| {
            let mut workspace = in_order();
            let package = Package {
                lints,
                ..Package::default()
            };
            workspace
                .packages
                .insert(UNSAFE_ALLOWED.to_owned(), package);
            lint_errors(&workspace)
        };
        let good = &[("rust.unsafe_code", "deny"), ("clippy.todo", "deny")];
        assert_none(&with(Lints::Own(levels(good))));
        assert_eq!(with(Lints::Workspace).len(), 1);
        assert_eq!(
            with(Lints::Own(levels(&good[..1]))).len(),
            1,
            "a lint is missing"
        );
        let weaker = &[("rust.unsafe_code", "allow"), ("clippy.todo", "deny")];
        assert_eq!(with(Lints::Own(levels(weaker))).len(), 1);
    }

    #[test]
    fn reads_lints_in_both_ways_of_writing_them() {
        let manifest: toml::Value = toml::from_str(
            "[lints.rust]\nunsafe_code = \"deny\"\nrust_2018_idioms = { level = \"warn\", priority = -1 }",
        )
        .expect("toml");
        let Lints::Own(lints) = lints_of(&manifest) else {
            panic!("not own lints")
        };
        let expected = [
            ("rust.unsafe_code", "deny"),
            ("rust.rust_2018_idioms", "warn"),
        ];
        assert_eq!(lints, levels(&expected));
        assert!(matches!(
            lints_of(&toml::from_str("[lints]\nworkspace = true").expect("toml")),
            Lints::Workspace
        ));
        assert!(matches!(
            lints_of(&toml::from_str("[package]").expect("toml")),
            Lints::None
        ));
    }
}
