//! Who may open which channel: the decision that every open ends in.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use support::*;
use weft_capability::identity::{self, NODE_CAPABILITY_FILE, NODE_CHAIN_FILE, NODE_KEY_FILE};
use weft_capability::wallet::WalletError;
use weft_capability::{
    CapabilityError, Denied, MessageSet, NodeIdentity, Presented, Target, Wallet, admit,
    admit_local,
};
use weft_types::{ChannelId, Epoch, Lane, RefusalCode};

fn refused(world: &World, presented: &Presented, request: &Request) -> CapabilityError {
    admit(
        &world.bundle,
        presented,
        &request.opening(),
        &request.session(),
        request.now,
    )
    .unwrap_err()
}

#[test]
fn the_holder_is_admitted_with_what_the_capability_says() {
    let world = World::new("demo");
    let rights = capability();
    let key = world.instance("demo-client", "n1");
    let presented = present(world.capability_chain(&rights), &key);
    let wire: Presented = postcard::from_bytes(&postcard::to_stdvec(&presented).unwrap()).unwrap();
    assert_eq!(wire, presented);
    let request = Request::default();
    let grant = admit(
        &world.bundle,
        &wire,
        &request.opening(),
        &request.session(),
        now(),
    )
    .unwrap();
    assert_eq!(grant.holder, service("demo-client"));
    assert_eq!(grant.node, Some(node("n1")));
    assert_eq!(grant.holder_epoch, Some(Epoch::FIRST));
    assert_eq!(grant.target, service("kv"));
    assert_eq!(grant.capability, rights.id);
    assert_eq!(grant.not_after, at(HOUR).into());

    let local = admit_local(
        &world.bundle,
        &presented.capability_chain,
        &service("demo-client"),
        &request.opening(),
        now(),
    )
    .unwrap();
    assert_eq!(local.node, None);
    assert_eq!(local.messages, grant.messages);
    assert_eq!(local.lane_ceiling, grant.lane_ceiling);
}

#[test]
fn another_target_contract_version_or_epoch_is_refused_and_the_refusal_says_which() {
    let world = World::new("demo");
    let mut rights = capability();
    rights.epoch_min = Epoch::FIRST;
    let chain = world.capability_chain(&rights);
    let presented = present(chain.clone(), &world.instance("demo-client", "n1"));
    let requests = [
        (
            Request {
                target: service("log"),
                ..Request::default()
            },
            "not for log",
        ),
        (
            Request {
                contract: contract("log"),
                ..Request::default()
            },
            "not for log",
        ),
        (
            Request {
                version: 2,
                ..Request::default()
            },
            "not for version 2",
        ),
        (
            Request {
                epoch: Epoch::NONE,
                ..Request::default()
            },
            "epoch 0",
        ),
    ];
    for (request, text) in requests {
        let remote = refused(&world, &presented, &request);
        let local = admit_local(
            &world.bundle,
            &chain,
            &service("demo-client"),
            &request.opening(),
            now(),
        );
        assert_eq!(local, Err(remote.clone()));
        assert!(matches!(remote, CapabilityError::DoesNotCover { .. }));
        let refusal = remote.refusal();
        assert_eq!(refusal.code, RefusalCode::NoGrant);
        assert!(refusal.text.contains(text), "{refusal}");
    }
}

#[test]
fn a_capability_of_somebody_else_opens_nothing() {
    let world = World::new("demo");
    let chain = world.capability_chain(&capability());
    let mallory = world.instance("mallory", "n1");
    let error = refused(
        &world,
        &present(chain.clone(), &mallory),
        &Request::default(),
    );
    assert!(matches!(error, CapabilityError::OtherHolder { .. }));
    assert_eq!(error.refusal().code, RefusalCode::NotHolder);
    let request = Request::default();
    let local = admit_local(
        &world.bundle,
        &chain,
        &service("mallory"),
        &request.opening(),
        now(),
    );
    assert!(matches!(local, Err(CapabilityError::OtherHolder { .. })));
}

#[test]
fn a_stolen_proof_is_useless_on_another_session_channel_or_chain() {
    let world = World::new("demo");
    let chain = world.capability_chain(&capability());
    let key = world.instance("demo-client", "n1");
    let stolen = present(chain, &key);
    let not_proven = |presented: &Presented, request: &Request| {
        let error = refused(&world, presented, request);
        assert!(
            matches!(error, CapabilityError::NotProven { .. }),
            "{error:?}"
        );
        assert_eq!(error.code(), RefusalCode::NotHolder);
    };
    not_proven(
        &stolen,
        &Request {
            exporter: vec![43; 32],
            ..Request::default()
        },
    );
    not_proven(
        &stolen,
        &Request {
            channel: ChannelId::new(78),
            ..Request::default()
        },
    );
    let other_chain = Presented {
        capability_chain: world.capability_chain(&capability()),
        ..stolen.clone()
    };
    not_proven(&other_chain, &Request::default());
}

#[test]
fn a_chain_without_its_key_is_useless() {
    let world = World::new("demo");
    let chain = world.capability_chain(&capability());
    let holder = world.instance("demo-client", "n1");
    // Mallory has copied both chains and signs with a key of its own, or not at all.
    let mut mallory = world.instance("mallory", "n1");
    mallory.chain = holder.chain;
    let forged = present(chain.clone(), &mallory);
    let error = refused(&world, &forged, &Request::default());
    assert!(matches!(error, CapabilityError::NotProven { .. }));
    let unsigned =
        Presented::from_parts(chain.clone().into(), mallory.chain.clone().into(), vec![]).unwrap();
    let error = refused(&world, &unsigned, &Request::default());
    assert!(matches!(error, CapabilityError::NotProven { .. }));
    // The capability itself is not an identity, whoever signs.
    let own = Presented::from_parts(
        chain.clone().into(),
        chain.into(),
        forged.signature.as_bytes().to_vec(),
    )
    .unwrap();
    let error = refused(&world, &own, &Request::default());
    assert!(matches!(error, CapabilityError::Untrusted { .. }));
}

#[test]
fn a_session_without_an_exporter_value_proves_nothing() {
    let world = World::new("demo");
    let key = world.instance("demo-client", "n1");
    let chain = world.capability_chain(&capability());
    let presented = Presented::new(chain, &key, channel(), &[]).unwrap();
    let request = Request {
        exporter: vec![],
        ..Request::default()
    };
    let error = refused(&world, &presented, &request);
    assert!(matches!(error, CapabilityError::NotProven { .. }));
}

#[test]
fn an_instance_is_heard_from_its_own_node_only() {
    let world = World::new("demo");
    let key = world.instance("demo-client", "n1");
    let presented = present(world.capability_chain(&capability()), &key);
    let request = Request {
        peer: node("n2"),
        ..Request::default()
    };
    let error = refused(&world, &presented, &request);
    assert!(matches!(error, CapabilityError::OtherNode { .. }));
    assert_eq!(error.code(), RefusalCode::NotHolder);
}

#[test]
fn an_instance_or_a_capability_that_has_run_out_opens_nothing() {
    let world = World::new("demo");
    let key = world.instance("demo-client", "n1");
    let mut rights = capability();
    rights.not_after = at(60).into();
    let presented = present(world.capability_chain(&rights), &key);
    for late in [61, HOUR + 1] {
        let request = Request {
            now: at(late),
            ..Request::default()
        };
        let error = refused(&world, &presented, &request);
        assert!(matches!(error, CapabilityError::Expired { .. }));
        assert_eq!(error.code(), RefusalCode::Expired);
    }
}

#[test]
fn a_grant_for_every_node_opens_daemons_and_no_service() {
    let world = World::new("demo");
    let mut rights = capability();
    rights.holder = service("node/n1");
    rights.target = Target::EveryNode;
    rights.contract = contract("node.control");
    let key = world.instance("node/n1", "n1");
    let presented = present(world.capability_chain(&rights), &key);
    let mut request = Request {
        target: service("node/n3"),
        contract: contract("node.control"),
        ..Request::default()
    };
    let admitted = admit(
        &world.bundle,
        &presented,
        &request.opening(),
        &request.session(),
        now(),
    );
    assert_eq!(admitted.unwrap().target, service("node/n3"));
    request.target = service("kv");
    let error = refused(&world, &presented, &request);
    let CapabilityError::DoesNotCover { denied, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*denied, Denied::Target { .. }));
}

#[test]
fn a_grant_bounds_messages_and_lanes() {
    let world = World::new("demo");
    let mut rights = capability();
    rights.messages = MessageSet::Only(["Get".to_owned()].into());
    let request = Request::default();
    let grant = admit_local(
        &world.bundle,
        &world.capability_chain(&rights),
        &service("demo-client"),
        &request.opening(),
        now(),
    )
    .unwrap();
    assert_eq!(grant.check_message("Get"), Ok(()));
    assert_eq!(grant.check_lane(Lane::HIGH), Ok(()));
    assert_eq!(grant.check_lane(Lane::LOW), Ok(()));
    let put = grant.check_message("Put").unwrap_err();
    let urgent = grant.check_lane(Lane::URGENT).unwrap_err();
    for error in [put, urgent] {
        assert_eq!(error.refusal().code, RefusalCode::NotAllowed);
    }
}

#[test]
fn a_wallet_finds_the_capability_that_lasts_longest_and_says_what_is_missing() {
    let world = World::new("demo");
    let client = service("demo-client");
    let request = Request::default();
    let mut wallet = Wallet::new();
    let missing = wallet.find(&client, &request.opening(), now()).unwrap_err();
    assert!(matches!(missing, CapabilityError::NoGrant { .. }));

    let mut short = capability();
    short.not_after = at(60).into();
    let long = capability();
    for rights in [&long, &short] {
        let chain = world.capability_chain(rights);
        wallet.insert(&world.bundle, chain, now()).unwrap();
    }
    let found = wallet.find(&client, &request.opening(), now()).unwrap();
    assert_eq!(found.capability, long);
    let other = service("other");
    assert!(wallet.find(&other, &request.opening(), now()).is_err());
    let late = wallet.find(&client, &request.opening(), at(HOUR + 1));
    assert!(matches!(late, Err(CapabilityError::Expired { .. })));

    let foreign = World::new("other").capability_chain(&capability());
    assert!(matches!(
        wallet.insert(&world.bundle, foreign, now()),
        Err(WalletError::Refused(_))
    ));
    assert_eq!(wallet.of(&client).count(), 2);
    let again = world.capability_chain(&long);
    wallet.insert(&world.bundle, again, now()).unwrap();
    assert_eq!(wallet.all().len(), 2);
}

#[test]
fn a_missing_file_of_a_node_is_named() {
    let missing = |present: &[&str]| {
        let world = World::new("demo");
        let files = present.to_vec();
        let node = world.node_ca.below(&world.node_spec("n1")).chain().to_pem();
        let bundle = world.bundle.to_text();
        let read = move |file: &str| match file {
            _ if !files.contains(&file) => Err(std::io::ErrorKind::NotFound.into()),
            NODE_CHAIN_FILE => Ok(node.clone().into_bytes()),
            identity::TRUST_BUNDLE_FILE => Ok(bundle.clone().into_bytes()),
            _ => Ok(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec()),
        };
        NodeIdentity::load(read, now()).unwrap_err().to_string()
    };
    let bundle = identity::TRUST_BUNDLE_FILE;
    assert!(missing(&[]).starts_with("trust-bundle.pem is missing; make"));
    assert!(missing(&[bundle]).starts_with("node.pem is missing"));
    assert!(missing(&[bundle, NODE_CHAIN_FILE]).starts_with("node.key is missing"));
    let other_key = missing(&[bundle, NODE_CHAIN_FILE, NODE_KEY_FILE]);
    assert!(other_key.starts_with("node.key is not the key of node.pem"));
    let all = [bundle, NODE_CHAIN_FILE, NODE_KEY_FILE, NODE_CAPABILITY_FILE];
    assert!(missing(&all).starts_with("node.key is not the key of node.pem"));
}
