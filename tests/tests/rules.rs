//! The rules as mirror-xdp decides by them agree with a plain matcher that was written apart from it.

use std::path::Path;

use mirror_userspace::config;
use mirror_userspace::filter::policy::{self, Facts, RuleDirection};
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_common::{Address, Vni};
use mirror_xdp_tests::rules::{Action, Decision, Direction, Packet, Policy, Rng, Size};

/// What the product reads of a policy's configuration file.
fn product(policy: &Policy) -> policy::Policy {
    let text = policy.to_toml();
    match config::parse(Path::new("random.toml"), text.as_bytes()) {
        Ok(config) => config.policy,
        Err(mistakes) => panic!("{}\n{text}", mistakes.lines().collect::<Vec<_>>().join("\n")),
    }
}

/// A decision that both sides can say: a rule by its set, number, direction and action.
type Said = (&'static str, Option<usize>, Option<(u32, Option<Direction>, policy::Action)>);

fn said_by_product(product: &policy::Policy, packet: &Packet) -> Said {
    if !product.admits(packet.outer_source) {
        return ("not admitted", None, None);
    }
    let facts = Facts {
        vni: Vni::new(packet.vni).unwrap_or_default(),
        direction: product.direction(packet.source_mac, packet.destination_mac),
        addresses: packet.addresses,
        protocol: packet.protocol,
        ports: packet.ports,
    };
    match product.decide(&facts) {
        policy::Decision::UnknownVni => ("unknown VNI", None, None),
        policy::Decision::NoSet => ("no set", None, None),
        policy::Decision::NoRule { set } => ("no rule", Some(set), None),
        policy::Decision::Rule { set, rule } => {
            let rule = &product.sets[set].rules[rule];
            let direction = match rule.direction {
                RuleDirection::Ingress => Some(Direction::Ingress),
                RuleDirection::Egress => Some(Direction::Egress),
                RuleDirection::Both => None,
            };
            ("rule", Some(set), Some((rule.number, direction, rule.action)))
        }
    }
}

fn said_by_reference(policy: &Policy, packet: &Packet) -> Said {
    match policy.decide(packet) {
        Decision::NotAdmitted => ("not admitted", None, None),
        Decision::UnknownVni => ("unknown VNI", None, None),
        Decision::NoSet => ("no set", None, None),
        Decision::NoRule { set } => ("no rule", Some(set), None),
        Decision::Rule { set, rule } => {
            let rule = &policy.sets[set].rules[rule];
            let action = match rule.action {
                Action::Accept => policy::Action::Accept,
                Action::Reject => policy::Action::Reject,
                Action::Sample(flows) => policy::Action::Sample(flows),
                Action::Truncate(bytes) => policy::Action::Truncate(bytes),
                Action::Shunt => policy::Action::Shunt,
            };
            ("rule", Some(set), Some((rule.number, rule.direction, action)))
        }
    }
}

/// Holds `packets` packets against `policies` random policies of a size.
fn compare(seed: u64, size: Size, policies: usize, packets: usize) {
    let mut rng = Rng::new(seed);
    for _ in 0..policies {
        let policy = Policy::random(&mut rng, size);
        let product_policy = product(&policy);
        for _ in 0..packets {
            let packet = Packet::near(&policy, &mut rng);
            if said_by_product(&product_policy, &packet) == said_by_reference(&policy, &packet) {
                continue;
            }
            let least = policy
                .shrink(|less| said_by_product(&product(less), &packet) != said_by_reference(less, &packet));
            panic!(
                "{packet:?}\n{}\nproduct: {:?}\nreference: {:?}",
                least.to_toml(),
                said_by_product(&product(&least), &packet),
                said_by_reference(&least, &packet)
            );
        }
    }
}

#[test]
fn small_policies_are_decided_by_as_the_reference_does() {
    for (seed, rules) in [(1, 0), (2, 1), (3, 2), (4, 5), (5, 20)] {
        compare(seed, Size { rules, sets: 1 + rules % 4 }, 100, 200);
    }
    compare(6, Size { rules: 0, sets: 0 }, 10, 10);
}

#[test]
fn large_policies_are_decided_by_as_the_reference_does() {
    compare(7, Size { rules: 300, sets: 8 }, 10, 500);
    compare(8, Size { rules: 4096, sets: 256 }, 2, 500);
    compare(9, Size { rules: 4096, sets: 1 }, 2, 200);
}

#[test]
fn packets_become_the_frames_that_they_describe() {
    let mut rng = Rng::new(10);
    let policy = Policy::random(&mut rng, Size { rules: 100, sets: 4 });
    let mut built = 0;
    for _ in 0..2000 {
        let packet = Packet::near(&policy, &mut rng);
        let Some(frame) = packet.mirrored_frame() else { continue };
        built += 1;
        let outer = decapsulate(&frame[..], &Ports::default()).unwrap();
        assert_eq!((outer.vni.get(), outer.source), (packet.vni, Address::from(packet.outer_source)));
        let inner = &frame[outer.inner_offset..];
        assert_eq!(inner[..12], [packet.destination_mac, packet.source_mac].concat());
        let headers = InnerHeaders::parse(inner, 0);
        let Some((source, destination)) = packet.addresses else {
            assert_eq!(headers.network, Network::Other);
            continue;
        };
        assert_eq!((headers.source, headers.destination), (source.into(), destination.into()));
        assert_eq!(headers.protocol, packet.protocol);
        let ports = (headers.source_port, headers.destination_port);
        assert_eq!(ports, packet.ports.unwrap_or_default());
        let later = packet.ports.is_none() && policy::has_ports(packet.protocol);
        assert_eq!(headers.fragment, if later { Fragment::Later } else { Fragment::Whole }, "{packet:?}");
    }
    assert!(built > 1800, "{built}");
}
