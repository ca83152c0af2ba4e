//! What the X.509 libraries let through, and this crate does not.
//!
//! Each test is a certificate that was tried against webpki, rcgen or rustls and did something
//! unexpected there, or one that somebody with a key of ours could make and should gain nothing by.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use support::*;
use weft_capability::oid::{CAPABILITY_EXTENSION, CAPABILITY_USAGE};
use weft_capability::{
    BundleError, Capability, CapabilityError, CapabilityId, Chain, ChainError, Distrust, Document,
    ExtensionError, TrustBundle, names, verify_capability, verify_instance, verify_node,
};

fn why<T: std::fmt::Debug>(result: Result<T, CapabilityError>) -> Distrust {
    match result {
        Err(CapabilityError::Untrusted { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn capability_fault(world: &World, chain: &Chain) -> Distrust {
    why(verify_capability(&world.bundle, chain, now()))
}

#[test]
fn a_capability_says_after_verification_what_was_put_in() {
    let world = World::new("demo");
    let granted = capability();
    let chain = world.capability_chain(&granted);
    let verified = verify_capability(&world.bundle, &chain, now()).unwrap();
    assert_eq!(verified.get(), &granted);
    assert_eq!(verified.not_after(), at(HOUR).into());
}

#[test]
fn a_critical_extension_is_refused_in_the_leaf_and_in_an_intermediate() {
    let world = World::new("demo");
    let mut spec = world.capability_spec(&capability());
    spec.extensions[0].set_criticality(true);
    let chain = world.capability_ca.below(&spec).chain();
    assert!(matches!(
        capability_fault(&world, &chain),
        Distrust::Broken(_)
    ));

    let critical = spec.extensions.clone();
    let ca = Spec {
        ca: Some(Some(0)),
        usages: usage(CAPABILITY_USAGE),
        extensions: critical,
        ..Spec::new("CA", names::cluster_uri(&world.cluster))
    };
    let ca = world.capability_root.below(&ca);
    let chain = ca.below(&world.capability_spec(&capability())).chain();
    assert!(matches!(
        capability_fault(&world, &chain),
        Distrust::Broken(_)
    ));
}

#[test]
fn a_missing_a_second_an_oversize_and_an_unknown_extension_are_refused() {
    let world = World::new("demo");
    let spec = world.capability_spec(&capability());
    let fault = |extensions| {
        let spec = Spec {
            extensions,
            ..spec.clone()
        };
        capability_fault(&world, &world.capability_ca.below(&spec).chain())
    };
    assert_eq!(fault(vec![]), ExtensionError::Missing.into());
    let twice = vec![spec.extensions[0].clone(), spec.extensions[0].clone()];
    assert_eq!(fault(twice), ExtensionError::Twice.into());

    let mut oversize = vec![0x04, 0x82, 0x01, 0x90];
    oversize.extend([1; 400]);
    assert_eq!(
        fault(vec![extension(CAPABILITY_EXTENSION, oversize)]),
        ExtensionError::TooLong(404).into()
    );
    let mut content = capability().to_extension().unwrap();
    let version = if content[1] < 0x80 { 2 } else { 3 };
    content[version] = 9;
    assert_eq!(
        fault(vec![extension(CAPABILITY_EXTENSION, content)]),
        ExtensionError::Version(9).into()
    );
    assert_eq!(
        fault(vec![extension(CAPABILITY_EXTENSION, vec![0x30, 0x00])]),
        ExtensionError::Malformed.into()
    );
}

#[test]
fn a_path_length_that_only_the_root_has_still_holds() {
    // webpki ignores the constraints of a root: nothing but our own check of the shape is left.
    let world = World::new("demo");
    let root = Signer::root(&Spec {
        ca: Some(Some(0)),
        to: 100 * HOUR,
        ..Spec::new("root 0", names::cluster_uri(&world.cluster))
    });
    let bundle = TrustBundle::new(
        world.cluster.clone(),
        2,
        vec![world.node_root.certificate.clone()],
        vec![root.certificate.clone()],
    )
    .unwrap();
    let unconstrained = |name| Spec {
        ca: Some(None),
        usages: usage(CAPABILITY_USAGE),
        ..Spec::new(name, names::cluster_uri(&world.cluster))
    };
    let one = root.below(&unconstrained("CA 1"));
    let two = one.below(&unconstrained("CA 2"));
    let chain = two.below(&world.capability_spec(&capability())).chain();
    assert_eq!(
        why(verify_capability(&bundle, &chain, now())),
        Distrust::NotAPath
    );
}

#[test]
fn a_path_length_in_an_intermediate_holds() {
    let world = World::new("demo");
    let sub = Spec {
        ca: Some(None),
        usages: usage(CAPABILITY_USAGE),
        ..Spec::new("sub", names::cluster_uri(&world.cluster))
    };
    let sub = world.capability_ca.below(&sub);
    let chain = sub.below(&world.capability_spec(&capability())).chain();
    assert_eq!(
        capability_fault(&world, &chain),
        Distrust::Broken("PathLenConstraintViolated".into())
    );
}

#[test]
fn nothing_is_trusted_by_a_root_that_has_run_out() {
    // webpki takes roots for ever.
    let world = World::new("demo");
    let root = |to| {
        Signer::root(&Spec {
            ca: Some(Some(1)),
            from: -9 * HOUR,
            to,
            ..Spec::new("old root", names::cluster_uri(&world.cluster))
        })
    };
    let old = root(-HOUR);
    let bundle = |roots: Vec<CertificateDer<'static>>| {
        let node_roots = vec![world.node_root.certificate.clone()];
        TrustBundle::new(world.cluster.clone(), 2, node_roots, roots).unwrap()
    };
    let ca = Spec {
        ca: Some(Some(0)),
        usages: usage(CAPABILITY_USAGE),
        ..Spec::new("CA", names::cluster_uri(&world.cluster))
    };
    let chain = old
        .below(&ca)
        .below(&world.capability_spec(&capability()))
        .chain();
    assert_eq!(
        why(verify_capability(
            &bundle(vec![old.certificate.clone()]),
            &chain,
            now()
        )),
        Distrust::RootExpired(at(-HOUR).into())
    );
    // Beside a root that holds, the old one counts for as little.
    let both = vec![old.certificate, world.capability_root.certificate.clone()];
    assert_eq!(
        why(verify_capability(&bundle(both), &chain, now())),
        Distrust::UnknownIssuer
    );
}

#[test]
fn a_certificate_that_outlives_its_issuer_is_refused_while_both_are_valid() {
    let world = World::new("demo");
    let long = Spec {
        to: 101 * HOUR,
        ..world.capability_spec(&capability())
    };
    let chain = world.capability_ca.below(&long).chain();
    assert_eq!(capability_fault(&world, &chain), Distrust::OutlivesIssuer);

    let long_ca = Spec {
        ca: Some(Some(0)),
        usages: usage(CAPABILITY_USAGE),
        to: 101 * HOUR,
        ..Spec::new("CA", names::cluster_uri(&world.cluster))
    };
    let ca = world.capability_root.below(&long_ca);
    let chain = ca.below(&world.capability_spec(&capability())).chain();
    assert_eq!(capability_fault(&world, &chain), Distrust::OutlivesIssuer);

    let mut rights = capability();
    rights.not_after = at(HOUR + 1).into();
    let chain = world.capability_chain(&rights);
    assert_eq!(capability_fault(&world, &chain), Distrust::OutlivesIssuer);
}

#[test]
fn rights_that_end_before_their_certificate_end() {
    let world = World::new("demo");
    let mut rights = capability();
    rights.not_after = at(10).into();
    let chain = world.capability_chain(&rights);
    let verified = verify_capability(&world.bundle, &chain, at(10)).unwrap();
    assert_eq!(verified.not_after(), at(10).into());
    assert!(matches!(
        verify_capability(&world.bundle, &chain, at(11)),
        Err(CapabilityError::Expired {
            document: Document::Capability,
            ..
        })
    ));
}

#[test]
fn a_certificate_is_not_taken_before_or_after_its_time() {
    let world = World::new("demo");
    let chain = world.capability_chain(&capability());
    let verify = |moment| verify_capability(&world.bundle, &chain, moment);
    assert!(verify(at(-HOUR)).is_ok());
    assert!(verify(at(HOUR)).is_ok());
    assert!(matches!(
        verify(at(-HOUR - 1)),
        Err(CapabilityError::NotYetValid { .. })
    ));
    let error = verify(at(HOUR + 1)).unwrap_err();
    assert_eq!(
        error.refusal().to_string(),
        "the capability demo-client -> kv ran out at 2027-01-15 09:00:00 UTC; issue a new one \
         with `weft grant` (demo-client -> kv) [expired]"
    );
}

#[test]
fn a_holder_cannot_sign_a_capability_with_its_own() {
    let world = World::new("demo");
    let holder = world
        .capability_ca
        .below(&world.capability_spec(&capability()));
    let chain = holder.below(&world.capability_spec(&capability())).chain();
    assert_eq!(
        capability_fault(&world, &chain),
        Distrust::Broken("EndEntityUsedAsCa".into())
    );
}

#[test]
fn what_was_passed_on_is_refused_until_that_is_supported() {
    let world = World::new("demo");
    let roomy = Spec {
        ca: Some(Some(3)),
        usages: usage(CAPABILITY_USAGE),
        to: 2 * HOUR,
        ..Spec::new("roomy CA", names::cluster_uri(&world.cluster))
    };
    let roomy = world.capability_root.below(&roomy);
    let mut rights = capability();
    rights.depth_left = 1;
    let delegable = Spec {
        ca: Some(Some(0)),
        ..world.capability_spec(&rights)
    };
    let holder = roomy.below(&delegable);
    let child = Capability {
        id: CapabilityId::new(random()),
        parent: Some(rights.id),
        holder: service("helper"),
        depth_left: 0,
        ..rights.clone()
    };
    assert!(child.is_within(&rights));
    let chain = holder.below(&world.capability_spec(&child)).chain();
    assert_eq!(capability_fault(&world, &chain), Distrust::Delegated);
    // Nor does the delegable one count as one to be used.
    assert_eq!(
        capability_fault(&world, &holder.chain()),
        Distrust::Broken("CaUsedAsEndEntity".into())
    );
    // A parent that is not there cannot have been checked.
    let chain = world.capability_chain(&child);
    assert_eq!(capability_fault(&world, &chain), Distrust::Delegated);
}

#[test]
fn an_intermediate_without_a_list_of_purposes_signs_for_none() {
    // With webpki's own checks of server and client usage it signs for every purpose: a holder
    // that could pass on its capability became a node.
    let world = World::new("demo");
    let anything = |root: &Signer| {
        root.below(&Spec {
            ca: Some(Some(0)),
            ..Spec::new("any CA", names::cluster_uri(&world.cluster))
        })
    };
    let chain = anything(&world.node_root)
        .below(&world.node_spec("n1"))
        .chain();
    let node = verify_node(&world.bundle, chain.certificates(), now());
    assert_eq!(why(node), Distrust::WrongUsage);
    let chain = anything(&world.capability_root)
        .below(&world.capability_spec(&capability()))
        .chain();
    assert_eq!(capability_fault(&world, &chain), Distrust::WrongUsage);
}

#[test]
fn nobody_on_the_capability_side_can_make_a_node() {
    let world = World::new("demo");
    let issuer = world.issuer_ca.below(&world.issuer_spec("n1"));
    let fault = |signer: &Signer| {
        let chain = signer.below(&world.node_spec("n2")).chain();
        why(verify_node(&world.bundle, chain.certificates(), now()))
    };
    for signer in [&world.capability_ca, &world.issuer_ca, &issuer] {
        assert_eq!(fault(signer), Distrust::WrongUsage);
    }
    // The purpose is one defence, the root the other: it holds if the purpose is right.
    let node_ca = world.capability_root.below(&Spec {
        ca: Some(Some(0)),
        usages: node_usage(),
        ..Spec::new("misled CA", names::cluster_uri(&world.cluster))
    });
    assert_eq!(fault(&node_ca), Distrust::UnknownIssuer);
    // And had the two roots one key, there would be no bundle.
    let root = world.capability_root.certificate.clone();
    assert_eq!(
        TrustBundle::new(world.cluster, 1, vec![root.clone()], vec![root]),
        Err(BundleError::SharedRoot)
    );
}

#[test]
fn a_certificate_for_one_purpose_is_refused_for_each_of_the_others() {
    let world = World::new("demo");
    let node = world.node_ca.below(&world.node_spec("n1")).chain();
    let capability = world.capability_chain(&capability());
    let instance = world.instance("demo-client", "n1").chain;
    let bundle = &world.bundle;
    assert!(verify_node(bundle, node.certificates(), now()).is_ok());
    assert!(verify_capability(bundle, &capability, now()).is_ok());
    assert!(verify_instance(bundle, &instance, now()).is_ok());

    for chain in [&node, &instance] {
        assert_eq!(capability_fault(&world, chain), Distrust::WrongUsage);
    }
    for chain in [&node, &capability] {
        assert_eq!(
            why(verify_instance(bundle, chain, now())),
            Distrust::WrongUsage
        );
    }
    for chain in [&capability, &instance] {
        assert_eq!(
            why(verify_node(bundle, chain.certificates(), now())),
            Distrust::WrongUsage
        );
    }
}

#[test]
fn an_instance_issuer_cannot_make_capabilities_nor_the_capability_ca_instances() {
    let world = World::new("demo");
    let issuer = world.issuer_ca.below(&world.issuer_spec("n1"));
    let chain = issuer.below(&world.capability_spec(&capability())).chain();
    assert_eq!(capability_fault(&world, &chain), Distrust::WrongUsage);
    let chain = world
        .capability_ca
        .below(&world.instance_spec("demo-client", "n1"))
        .chain();
    assert_eq!(
        why(verify_instance(&world.bundle, &chain, now())),
        Distrust::WrongUsage
    );
}

#[test]
fn a_node_cannot_vouch_for_an_instance_elsewhere_nor_for_another_daemon() {
    let world = World::new("demo");
    let issuer = world.issuer_ca.below(&world.issuer_spec("n1"));
    for (of, on) in [("demo-client", "n2"), ("node/n2", "n1"), ("node/n2", "n2")] {
        let chain = issuer.below(&world.instance_spec(of, on)).chain();
        assert!(
            matches!(
                why(verify_instance(&world.bundle, &chain, now())),
                Distrust::Names(_)
            ),
            "{of} on {on}"
        );
    }
    let chain = issuer.below(&world.instance_spec("node/n1", "n1")).chain();
    let instance = verify_instance(&world.bundle, &chain, now()).unwrap();
    assert_eq!(instance.get().service, service("node/n1"));
    // An instance straight from the issuer CA is bound to no node.
    let chain = world
        .issuer_ca
        .below(&world.instance_spec("demo-client", "n1"))
        .chain();
    assert_eq!(
        why(verify_instance(&world.bundle, &chain, now())),
        Distrust::NotAPath
    );
}

#[test]
fn names_of_other_kinds_do_not_pass_for_ours() {
    // Name constraints of a CA do not bind URIs, so the URI itself is what we check.
    let world = World::new("demo");
    let fault = |change: fn(&mut Spec)| {
        let mut spec = world.node_spec("n1");
        change(&mut spec);
        let chain = world.node_ca.below(&spec).chain();
        why(verify_node(&world.bundle, chain.certificates(), now()))
    };
    let names = [
        fault(|spec| spec.uris = vec!["spiffe://demo/svc/n1".into()]),
        fault(|spec| spec.uris = vec!["spiffe://demo/node/n2".into()]),
        fault(|spec| spec.uris.push("spiffe://demo/node/n2".into())),
        fault(|spec| spec.uris.clear()),
        fault(|spec| spec.dns_names = vec!["n2.node.demo".into()]),
        fault(|spec| spec.dns_names.push("n2.node.demo".into())),
        fault(|spec| spec.dns_names.push("*.node.demo".into())),
        fault(|spec| spec.dns_names.clear()),
    ];
    for fault in names {
        assert!(matches!(fault, Distrust::Names(_)), "{fault:?}");
    }
    assert_eq!(
        fault(|spec| spec.uris = vec!["spiffe://other/node/n1".into()]),
        Distrust::Foreign("other".into())
    );
}

#[test]
fn the_holder_in_the_name_and_in_the_rights_must_be_one() {
    let world = World::new("demo");
    let mut spec = world.capability_spec(&capability());
    spec.uris = vec![names::service_uri(&world.cluster, &service("mallory"))];
    let chain = world.capability_ca.below(&spec).chain();
    assert!(matches!(
        capability_fault(&world, &chain),
        Distrust::Names(_)
    ));
}

#[test]
fn another_cluster_is_refused_by_name_and_a_namesake_by_its_roots() {
    let world = World::new("demo");
    let other = World::new("other");
    let chain = other.capability_chain(&capability());
    assert_eq!(
        capability_fault(&world, &chain),
        Distrust::Foreign("other".into())
    );
    let namesake = World::new("demo");
    let chain = namesake.capability_chain(&capability());
    assert!(matches!(
        capability_fault(&world, &chain),
        Distrust::UnknownIssuer | Distrust::Broken(_)
    ));
    let chain = namesake.node_ca.below(&namesake.node_spec("n1")).chain();
    let node = verify_node(&world.bundle, chain.certificates(), now());
    assert!(matches!(
        why(node),
        Distrust::UnknownIssuer | Distrust::Broken(_)
    ));
}

#[test]
fn a_second_root_of_a_kind_is_trusted_beside_the_first() {
    let world = World::new("demo");
    let next = World::new("demo");
    let bundle = TrustBundle::new(
        world.cluster.clone(),
        2,
        vec![world.node_root.certificate.clone()],
        vec![
            world.capability_root.certificate.clone(),
            next.capability_root.certificate.clone(),
        ],
    )
    .unwrap();
    for world in [&world, &next] {
        let chain = world.capability_chain(&capability());
        assert!(verify_capability(&bundle, &chain, now()).is_ok());
    }
    assert_eq!(TrustBundle::from_text(&bundle.to_text()), Ok(bundle));
}

#[test]
fn certificates_that_are_not_on_the_path_are_not_carried_along() {
    let world = World::new("demo");
    let chain = world.capability_chain(&capability());
    let with = |extra: &CertificateDer<'static>| {
        let mut certificates = chain.certificates().to_vec();
        certificates.push(extra.clone());
        Chain::new(certificates).unwrap()
    };
    for extra in [
        &world.capability_root.certificate,
        &world.node_ca.certificate,
    ] {
        assert_eq!(capability_fault(&world, &with(extra)), Distrust::NotAPath);
    }
    let instance = world.instance("demo-client", "n1").chain;
    let mut shuffled = instance.certificates().to_vec();
    shuffled.swap(1, 2);
    let shuffled = Chain::new(shuffled).unwrap();
    assert_eq!(
        why(verify_instance(&world.bundle, &shuffled, now())),
        Distrust::NotAPath
    );
}

#[test]
fn a_chain_that_is_too_long_is_refused_unread() {
    let world = World::new("demo");
    let one = world.capability_root.certificate.clone();
    assert_eq!(Chain::new(vec![one.clone(); 6]), Err(ChainError::TooMany));
    let node = verify_node(&world.bundle, &vec![one; 6], now());
    assert_eq!(why(node), Distrust::NotAPath);
    assert_eq!(
        why(verify_node(&world.bundle, &[], now())),
        Distrust::NotAPath
    );
}

#[test]
fn a_root_must_be_the_root_of_this_cluster() {
    let world = World::new("demo");
    let capability_roots = || vec![world.capability_root.certificate.clone()];
    let bundle = |root: &CertificateDer<'static>| {
        TrustBundle::new(
            world.cluster.clone(),
            1,
            vec![root.clone()],
            capability_roots(),
        )
    };
    let other = World::new("other");
    let leaf = world.node_ca.below(&world.node_spec("n1"));
    for root in [
        &other.node_root.certificate,
        &world.node_ca.certificate,
        &leaf.certificate,
        &CertificateDer::from(vec![1, 2, 3]),
    ] {
        assert!(matches!(bundle(root), Err(BundleError::NotARoot { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_as_certificates_are_refused(
        certificates in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..400), 1..5
        )
    ) {
        let world = shared();
        let chain = Chain::try_from(certificates).unwrap();
        prop_assert!(verify_capability(&world.bundle, &chain, now()).is_err());
        prop_assert!(verify_instance(&world.bundle, &chain, now()).is_err());
        prop_assert!(verify_node(&world.bundle, chain.certificates(), now()).is_err());
    }

    #[test]
    fn one_changed_byte_anywhere_in_a_chain_spoils_it(
        which in 0_usize..2, at in any::<proptest::sample::Index>(), flip in 1_u8..=255
    ) {
        let world = shared();
        let mut certificates: Vec<Vec<u8>> = world.capability_chain(&capability()).into();
        let at = at.index(certificates[which].len());
        certificates[which][at] ^= flip;
        let chain = Chain::try_from(certificates).unwrap();
        prop_assert!(verify_capability(&world.bundle, &chain, now()).is_err());
    }
}

fn shared() -> &'static World {
    static WORLD: std::sync::OnceLock<World> = std::sync::OnceLock::new();
    WORLD.get_or_init(|| World::new("demo"))
}
