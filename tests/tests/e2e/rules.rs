//! mirror-xdp's decisions by rules agree with those of a simple matcher that was written independently. The
//! tests cover the evaluation rule by rule of `mirror-xdp filter test`, the compiled tables in user space,
//! and the program in the kernel.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use mirror_userspace::control::config;
use mirror_userspace::device::xdp::program::{CaptureProgram, Options};
use mirror_userspace::rules::compile::{CompileError, CompiledPolicy, Places};
use mirror_userspace::rules::policy::{self, Facts, RuleDirection};
use mirror_xdp_common::capture::{CaptureHeader, flags};
use mirror_xdp_common::counters::{Counter, Fate};
use mirror_xdp_common::filter::{self, MAX_VNIS, Question, action};
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_common::wire::MacAddresses;
use mirror_xdp_common::{Address, Vni};
use mirror_xdp_tests::require;
use mirror_xdp_tests::rules::{Action, Decision, Direction, Packet, Policy, Rng, Size};
use rustix::net::{AddressFamily, SocketType, socket};

const SEED: u64 = 0x5eed_0f1a_57ed_c0de;

/// Returns the policy that the product reads from a configuration file.
fn product(policy: &Policy) -> policy::Policy {
    let text = policy.to_toml();
    match config::parse(Path::new("random.toml"), text.as_bytes()) {
        Ok(config) => config.policy,
        Err(mistakes) => panic!("{}\n{text}", mistakes.lines().collect::<Vec<_>>().join("\n")),
    }
}

/// A decision in a form common to both sides: the kind, the set, and the rule's number, direction and action.
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

/// The places of a policy's VNIs and rules in the tables.
#[derive(Default)]
struct Numbered {
    slots: HashMap<Vni, u32>,
    /// Indexed by identifier minus one.
    rules: Vec<(String, Option<policy::Rule>)>,
}

impl Places for Numbered {
    fn vni(&mut self, vni: Vni) -> Result<u32, CompileError> {
        let next = self.slots.len() as u32 + 1;
        Ok(*self.slots.entry(vni).or_insert(next))
    }

    fn rule(&mut self, set: &str, rule: Option<&policy::Rule>) -> u16 {
        self.rules.push((set.to_owned(), rule.cloned()));
        self.rules.len() as u16
    }
}

/// A policy compiled for user space.
struct Tables {
    compiled: CompiledPolicy,
    places: Numbered,
}

impl Tables {
    fn new(policy: &policy::Policy) -> Self {
        let mut places = Numbered::default();
        let compiled = CompiledPolicy::new(policy, 1, &mut places).unwrap();
        Self { compiled, places }
    }

    /// Returns the tables' decision on a frame: the counter, the rule, and the captured length of the inner
    /// frame.
    fn judge(&self, product: &policy::Policy, frame: &[u8]) -> Judged {
        let outer = decapsulate(frame, &Ports::default()).unwrap();
        let inner = &frame[outer.inner_offset..][..outer.inner_len];
        let headers = InnerHeaders::parse(inner, 0);
        let macs = inner.header::<MacAddresses>(0).unwrap();
        if !filter::admits(&self.compiled, outer.sender) {
            return Judged::dropped(Counter::SourceNotAdmitted);
        }
        let learned = match product.unknown_vnis {
            policy::UnknownVnis::Learn => MAX_VNIS as u32 + 7,
            policy::UnknownVnis::Drop => 0,
        };
        let slot = self.places.slots.get(&outer.vni).copied().unwrap_or(learned);
        let judgement = filter::judge(&self.compiled, slot, &Question::new(&headers, macs));
        let rule = judgement.rule.checked_sub(1).map(|index| self.places.rules[usize::from(index)].clone());
        let counter = match judgement.action {
            action::ACCEPT | action::TRUNCATE => Counter::Redirected,
            action::SAMPLE => sampled(&headers, judgement.parameter),
            action::SHUNT => Counter::RuleShunted,
            action::VNI_NOT_ADMITTED => Counter::VniNotAdmitted,
            _ => Counter::FilterRejected,
        };
        let kept =
            if judgement.action == action::TRUNCATE { judgement.parameter as usize } else { inner.len() };
        Judged { counter, rule, kept: kept.min(inner.len()) }
    }
}

fn sampled(headers: &InnerHeaders, n: u32) -> Counter {
    let within = filter::sample_value(headers.flow_hash(&FlowHashKey::new(SEED))).is_multiple_of(n);
    if within { Counter::Redirected } else { Counter::SampledOut }
}

/// The outcome of a frame, and the rule that is counted for it, with its set.
#[derive(Clone, Debug, PartialEq)]
struct Judged {
    counter: Counter,
    rule: Option<(String, Option<policy::Rule>)>,
    /// Bytes of the inner frame that are captured; meaningless if it is not captured.
    kept: usize,
}

impl Judged {
    fn dropped(counter: Counter) -> Self {
        Self { counter, rule: None, kept: 0 }
    }

    /// Returns the outcome that the reference requires for a frame.
    fn by_reference(policy: &Policy, product: &policy::Policy, packet: &Packet, frame: &[u8]) -> Self {
        let outer = decapsulate(frame, &Ports::default()).unwrap();
        let headers = InnerHeaders::parse(&frame[outer.inner_offset..], 0);
        let kept = outer.inner_len;
        match policy.decide(packet) {
            Decision::NotAdmitted => Self::dropped(Counter::SourceNotAdmitted),
            Decision::UnknownVni => Self::dropped(Counter::VniNotAdmitted),
            Decision::NoSet => Self { counter: Counter::Redirected, rule: None, kept },
            Decision::NoRule { set } => {
                let rule = Some((product.sets[set].name.clone(), None));
                Self { counter: Counter::FilterRejected, rule, kept }
            }
            Decision::Rule { set, rule } => {
                let rule = &policy.sets[set].rules[rule];
                let (counter, kept) = match rule.action {
                    Action::Accept => (Counter::Redirected, kept),
                    Action::Reject => (Counter::FilterRejected, kept),
                    Action::Sample(n) => (sampled(&headers, n), kept),
                    Action::Truncate(bytes) => (Counter::Redirected, kept.min(bytes as usize)),
                    Action::Shunt => (Counter::RuleShunted, kept),
                };
                let direction = match rule.direction {
                    Some(Direction::Ingress) => RuleDirection::Ingress,
                    Some(Direction::Egress) => RuleDirection::Egress,
                    None => RuleDirection::Both,
                };
                let found = product.sets[set]
                    .rules
                    .iter()
                    .find(|found| (found.number, found.direction) == (rule.number, direction));
                let rule = Some((product.sets[set].name.clone(), Some(found.unwrap().clone())));
                Self { counter, rule, kept }
            }
        }
    }
}

/// The program in the kernel, with a socket to which no frame is delivered.
struct Kernel {
    program: CaptureProgram,
    rules: HashMap<u32, (String, Option<policy::Rule>)>,
    /// Packets that rules had decided on when the policy was set: rules that the last policy had too continue
    /// to count.
    counted: HashMap<u16, u64>,
    _socket: OwnedFd,
}

impl Kernel {
    fn new() -> Option<Self> {
        if !require::privileges() {
            return None;
        }
        let mut program = CaptureProgram::load(&Options { hash_seed: SEED, ..Options::default() }).unwrap();
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        program.set_socket(0, socket.as_raw_fd()).unwrap();
        Some(Self { program, rules: HashMap::new(), counted: HashMap::new(), _socket: socket })
    }

    fn set_policy(&mut self, policy: &policy::Policy) {
        self.program.set_policy(policy).unwrap();
        let counts = self.program.rule_counts().unwrap();
        self.counted = counts.iter().map(|count| (count.id, count.packets)).collect();
        self.rules = counts.into_iter().map(|count| (count.id.into(), (count.set, count.rule))).collect();
    }

    /// Runs the program on a frame twice; the second time it uses its memo. Returns the observable outcome of
    /// the frame, which lacks the rule for dropped frames.
    fn run(&self, frame: &[u8]) -> Judged {
        let first = self.run_once(frame);
        let again = self.run_once(frame);
        assert_eq!(first, again, "decided otherwise from memory");
        first
    }

    fn run_once(&self, frame: &[u8]) -> Judged {
        let before = self.program.counts().unwrap();
        let run = self.program.test_run(frame, 1).unwrap();
        let counts = self.program.counts().unwrap().since(&before);
        let mut outcomes = Counter::ALL.iter().copied().filter(|counter| {
            !matches!(counter.fate(), Fate::Seen | Fate::Noted) && counts.get(*counter) != 0
        });
        let counter = outcomes.next().unwrap();
        assert_eq!((outcomes.next(), counts.get(counter)), (None, 1));
        if counter != Counter::Redirected {
            return Judged { counter, rule: None, kept: 0 };
        }
        let (header, inner) = CaptureHeader::decode(&run.frame).unwrap();
        let rule = (header.rule != 0).then(|| self.rules[&header.rule].clone());
        let outer = decapsulate(frame, &Ports::default()).unwrap();
        assert_eq!(header.flags & flags::SNAPPED != 0, inner.len() < outer.inner_len);
        assert_eq!(inner, &frame[outer.inner_offset..][..inner.len()]);
        Judged { counter, rule, kept: inner.len() }
    }
}

/// Compares decisions on packets of random policies with the compiled tables and, if available, the kernel.
fn compare_compiled(seed: u64, size: Size, policies: usize, packets: usize, kernel: &mut Option<Kernel>) {
    let mut rng = Rng::new(seed);
    for _ in 0..policies {
        let policy = Policy::random(&mut rng, size);
        let product_policy = product(&policy);
        let tables = Tables::new(&product_policy);
        if let Some(kernel) = kernel {
            kernel.set_policy(&product_policy);
        }
        let mut decided: HashMap<(String, Option<policy::Rule>), u64> = HashMap::new();
        for _ in 0..packets {
            let packet = Packet::near(&policy, &mut rng);
            let Some(frame) = packet.mirrored_frame() else { continue };
            let expected = Judged::by_reference(&policy, &product_policy, &packet, &frame);
            let judged = tables.judge(&product_policy, &frame);
            assert_eq!((judged.counter, &judged.rule), (expected.counter, &expected.rule), "{packet:?}");
            let Some(kernel) = &kernel else { continue };
            let ran = kernel.run(&frame);
            assert_eq!(ran.counter, expected.counter, "{packet:?}\n{}", policy.to_toml());
            if ran.counter == Counter::Redirected {
                assert_eq!(ran, expected, "{packet:?}");
                assert_eq!(ran.kept, judged.kept);
            }
            if let Some(rule) = expected.rule {
                *decided.entry(rule).or_default() += 2;
            }
        }
        let Some(kernel) = &kernel else { continue };
        for count in kernel.program.rule_counts().unwrap() {
            let rule = (count.set, count.rule);
            assert_eq!(
                count.packets - kernel.counted[&count.id],
                decided.get(&rule).copied().unwrap_or_default(),
                "{rule:?}"
            );
        }
    }
}

#[test]
fn the_program_decides_by_small_policies_as_the_reference_does() {
    let mut kernel = Kernel::new();
    for (seed, rules) in [(11, 0), (12, 1), (13, 2), (14, 5), (15, 20)] {
        compare_compiled(seed, Size { rules, sets: 1 + rules % 4 }, 80, 300, &mut kernel);
    }
}

#[test]
fn the_program_decides_by_large_policies_as_the_reference_does() {
    let mut kernel = Kernel::new();
    compare_compiled(16, Size { rules: 300, sets: 8 }, 10, 1000, &mut kernel);
    compare_compiled(17, Size { rules: 4096, sets: 256 }, 2, 1500, &mut kernel);
    compare_compiled(18, Size { rules: 4096, sets: 1 }, 2, 1000, &mut kernel);
}

/// Compares decisions on `packets` packets under each of `policies` random policies of a size.
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
