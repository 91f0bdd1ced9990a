//! The rows of the table, in the order of the example.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum as _;
use mirror_device::afxdp::BusyPoll;
use mirror_engine::analyzer::Enabled;
use mirror_packet::{FlowScope, TunnelPorts};
use mirror_records::sink::EventTypes;
use mirror_rules::limits;
use mirror_rules::policy::UnknownVnis;
use mirror_store::Kept;
use serde_json::{Value as Json, json};

use super::Default::{Absent, Is, Required};
use super::sections::{self, vni_ranges};
use super::{Kind, Section, Setting, signatures};

/// All tables of the configuration file, each after the one that contains it.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "log",
        is_list: false,
        text: "Messages to the journal or to standard error.",
        settings: LOG,
        more: "",
    },
    Section {
        name: "capture",
        is_list: false,
        text: "The interfaces, and the capture as a whole.",
        settings: CAPTURE,
        more: "",
    },
    Section {
        name: "ports",
        is_list: false,
        text: "UDP ports of mirror traffic, by encapsulation. An empty list disables the encapsulation. No port \
               may be in two lists.",
        settings: PORTS,
        more: "",
    },
    Section {
        name: "admission",
        is_list: false,
        text: "The frames to accept: any host that can send to these ports could inject frames.",
        settings: ADMISSION,
        more: "",
    },
    Section {
        name: "shunt",
        is_list: false,
        text: "Flows of no further interest are only counted, in the driver.",
        settings: SHUNT,
        more: "",
    },
    Section {
        name: "receive",
        is_list: false,
        text: "The reception of frames.",
        settings: RECEIVE,
        more: "",
    },
    Section {
        name: "store",
        is_list: false,
        text: "Packets stored on disk, if `run --store DIR` enables it. The keys max_size, min_free and max_age \
               are the retention: whole segments are deleted, the oldest first, except those that `mirror-xdp \
               hold` holds.",
        settings: STORE,
        more: "",
    },
    Section {
        name: "store.ages",
        is_list: true,
        text: "VNIs with an age of their own. A segment is deleted when the age of each VNI in it has \
               passed.",
        settings: AGES,
        more: "",
    },
    Section {
        name: "analysis",
        is_list: false,
        text: "The analysis of the frames.",
        settings: ANALYSIS,
        more: "",
    },
    Section {
        name: "services",
        is_list: false,
        text: "The events of databases, caches and queues.",
        settings: SERVICES,
        more: "",
    },
    Section {
        name: "timeouts",
        is_list: false,
        text: "Times without packets after which flows end, by their state.",
        settings: TIMEOUTS,
        more: "",
    },
    Section {
        name: "alerts",
        is_list: false,
        text: "Conditions for an alert: an event `alert`; [store] can keep the flow.",
        settings: ALERTS,
        more: "",
    },
    Section {
        name: "signatures",
        is_list: false,
        text: "Rules of Suricata, which raise alerts. A reload reads their files again, as a whole or not at all.",
        settings: SIGNATURES,
        more: "",
    },
    Section {
        name: "signatures.tenants",
        is_list: true,
        text: "VNIs with rules or variables of their own. Rules of several tenants are loaded once.",
        settings: TENANTS,
        more: "",
    },
    Section { name: "eve", is_list: false, text: "The output of the records.", settings: EVE, more: "" },
    Section {
        name: "api",
        is_list: false,
        text: "The HTTP API: the state of the capture, its metrics for Prometheus, and a page that shows it.",
        settings: API,
        more: "",
    },
    Section {
        name: "filter",
        is_list: false,
        text: "The part of the accepted frames that is captured.",
        settings: FILTER,
        more: "",
    },
    Section {
        name: "filter.sets",
        is_list: true,
        text: "A set: the rules are tried by ascending number, the first match decides, and a packet without a \
               match is rejected, as in a traffic mirror filter of AWS. `mirror-xdp filter import` converts \
               such filters to sets.",
        settings: SETS,
        more: "",
    },
    Section {
        name: "filter.sets.rules",
        is_list: true,
        text: "A condition that a rule omits matches everything.",
        settings: RULES,
        more: r#"
# Backups are counted, not captured.
[[filter.sets.rules]]
number = 200
action = "shunt"
protocol = "tcp"
destination_ports = "873"

# All of DNS and other UDP; of the rest one flow in 16, whole.
[[filter.sets.rules]]
number = 300
action = "accept"
protocol = "udp"

[[filter.sets.rules]]
number = 400
action = "sample 1/16"

# Headers are enough for this VPC.
[[filter.sets]]
name = "headers"
vnis = [8]

[[filter.sets.rules]]
number = 100
action = "truncate 128"
"#,
    },
];

const LOG: &[Setting] = &[Setting::new(
    "log.level",
    Kind::Other(
        "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or such as \"info,hyper=debug\"",
    ),
    Is("\"warn\""),
)
.live()
.text("\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\".")
.more(
    "After commas, levels for parts of the program, such as \"warn,mirror_store=info\". The environment \
     variable RUST_LOG overrides it.",
)
.example("\"warn\"")
.access(sections::log_level, |config| json!(config.log.level.as_deref().unwrap_or("warn")))];

const CAPTURE: &[Setting] = &[
    Setting::new(
        "capture.interfaces",
        Kind::List { of: "names of interfaces", most: usize::MAX },
        Absent("the command line has to name some"),
    )
    .flag("--interface")
    .text("Interfaces on which mirrored traffic arrives.")
    .example("[\"ens6\"]")
    .access(sections::interfaces, |config| json!(config.capture.interfaces)),
    Setting::new("capture.replace", Kind::Switch, Is("\"off\""))
        .flag("--replace")
        .text("Detach an XDP program that is attached to the interface already.")
        .example("\"off\"")
        .access(
            |reader, value| set(&mut reader.config.capture.replace, value.switch()),
            |config| switch(config.capture.replace),
        ),
    Setting::new("capture.log_dir", Kind::Path, Is("\"/var/log/mirror-xdp\""))
        .flag("--log-dir")
        .text("Directory of the records, created if it is missing.")
        .example("\"/var/log/mirror-xdp\"")
        .access(
            |reader, value| set(&mut reader.config.capture.log_dir, value.path()),
            |config| path(&config.capture.log_dir),
        ),
    Setting::new("capture.stats_interval", Kind::TIME, Is("\"8s\""))
        .flag("--stats-interval")
        .live()
        .text("Time between two `stats` events.")
        .example("\"8s\"")
        .access(
            |reader, value| set(&mut reader.config.capture.stats_interval, value.time()),
            |config| time(config.capture.stats_interval),
        ),
    Setting::new(
        "capture.max_flows",
        Kind::Number { of: "a number", least: 1, most: u32::MAX as u64 - 1 },
        Is("262144"),
    )
    .flag("--max-flows")
    .text("The most flows of each worker; beyond that, the flow that was idle the longest ends.")
    .example("262144")
    .access(
        |reader, value| {
            set(&mut reader.config.capture.max_flows, value.number().map(|flows| flows as usize));
        },
        |config| json!(config.capture.max_flows),
    ),
];

const PORTS: &[Setting] = &[
    Setting::new("ports.vxlan", Kind::List { of: "UDP ports", most: limits::VXLAN_PORTS }, Is("[4789]"))
        .flag("--vxlan-port")
        .text("UDP ports of VXLAN: mirror sessions to an interface or a Network Load Balancer.")
        .more("AWS always uses 4789.")
        .example("[4789]")
        .access(|reader, value| reader.ports[0] = Some(value.clone()), |config| json!(config.ports.vxlan)),
    Setting::new("ports.geneve", Kind::List { of: "UDP ports", most: limits::GENEVE_PORTS }, Is("[6081]"))
        .flag("--geneve-port")
        .text("UDP ports of GENEVE: mirror sessions to a Gateway Load Balancer, other clouds.")
        .more("Gateway Load Balancers use 6081.")
        .example("[6081]")
        .access(|reader, value| reader.ports[1] = Some(value.clone()), |config| json!(config.ports.geneve)),
    Setting::new("ports.vxlan_gpe", Kind::List { of: "UDP ports", most: limits::VXLAN_GPE_PORTS }, Is("[]"))
        .flag("--vxlan-gpe-port")
        .text("UDP ports of VXLAN-GPE.")
        .example("[]")
        .access(
            |reader, value| reader.ports[2] = Some(value.clone()),
            |config| json!(config.ports.vxlan_gpe),
        ),
];

const MODE: &[&str] = &["learn", "strict"];

const ADMISSION: &[Setting] = &[
    Setting::new(
        "admission.sources",
        Kind::List { of: "networks", most: limits::SOURCES },
        Absent("any source"),
    )
    .live()
    .text("Outer sources: the primary addresses of mirrored interfaces.")
    .more("A network of all addresses causes a warning.")
    .example("[\"10.0.0.0/8\", \"fd00::/8\"]")
    .access(sections::sources, |config| {
        json!(
            config.policy.sources.as_ref().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        )
    }),
    Setting::new("admission.mode", Kind::Word(MODE), Is("\"learn\""))
        .live()
        .text(
            "\"learn\" accepts frames of unknown VNIs and knows the VNI from then on; \"strict\" drops them, \
             and requires known VNIs.",
        )
        .example("\"learn\"")
        .access(
            |reader, value| match value.word() {
                Some("strict") => reader.config.policy.unknown_vnis = UnknownVnis::Drop,
                Some(_) => reader.config.policy.unknown_vnis = UnknownVnis::Learn,
                None => {}
            },
            |config| match config.policy.unknown_vnis {
                UnknownVnis::Learn => json!("learn"),
                UnknownVnis::Drop => json!("strict"),
            },
        ),
    Setting::new("admission.vnis", VNIS, Absent("none"))
        .live()
        .text("Known VNIs besides those of the sets below; up to 16,384 in all.")
        .example("[5, \"1000-1009\"]")
        .access(sections::known_vnis, |config| vnis(&config.policy.vnis)),
];

const SHUNT: &[Setting] = &[
    Setting::new("shunt.after", Kind::bytes(0), Absent("the whole flow"))
        .live()
        .text("The part at the beginning of a flow that is analysed.")
        .example("\"1MiB\"")
        .access(
            |reader, value| reader.config.shunt.after = value.bytes(),
            |config| json!(config.shunt.after),
        ),
    Setting::new(
        "shunt.max_flows",
        Kind::Number {
            of: "a number",
            least: *limits::SHUNTED_FLOWS.start() as u64,
            most: *limits::SHUNTED_FLOWS.end() as u64,
        },
        Is("65536"),
    )
    .text("The most flows that are counted at a time; the one longest without a packet makes room.")
    .example("65536")
    .access(
        |reader, value| set(&mut reader.config.shunt.max_flows, value.number().map(|flows| flows as u32)),
        |config| json!(config.shunt.max_flows),
    ),
];

const XDP_MODE: &[&str] = &["auto", "native", "generic"];
const ZERO_COPY: &[&str] = &["auto", "required", "off"];
/// The largest number of sockets of a queue.
pub const MAX_SOCKETS: u64 = 64;

const RECEIVE: &[Setting] = &[
    Setting::new("receive.xdp_mode", Kind::Word(XDP_MODE), Is("\"auto\""))
        .flag("--xdp-mode")
        .text("The place where the XDP program runs.")
        .more(
            "\"native\": in the driver. \"generic\": in the network stack, which is slower. \"auto\": in the \
             driver, or if it does not support that, in the network stack.",
        )
        .example("\"auto\"")
        .access(
            |reader, value| set(&mut reader.config.receive.xdp_mode, value.choice()),
            |config| {
                json!(config.receive.xdp_mode.to_possible_value().map(|value| value.get_name().to_owned()))
            },
        ),
    Setting::new("receive.zero_copy", Kind::Word(ZERO_COPY), Is("\"auto\""))
        .flag("--zero-copy")
        .text("Zero-copy reception: the NIC writes frames directly to the buffers where they are analysed.")
        .more(
            "\"auto\": if the driver supports it. It takes an MTU of at most 3796; longer frames are copied \
             into several buffers.",
        )
        .example("\"auto\"")
        .access(
            |reader, value| set(&mut reader.config.receive.zero_copy, value.choice()),
            |config| {
                json!(config.receive.zero_copy.to_possible_value().map(|value| value.get_name().to_owned()))
            },
        ),
    Setting::new(
        "receive.cpus",
        Kind::Other("a list of CPUs such as \"2-7,10\""),
        Absent(
            "those that the process may use: isolated ones first, and without those that serve the \
             interface's interrupts",
        ),
    )
    .flag("--cpus")
    .text("CPUs for the workers, such as 2-7,10.")
    .example("\"2-7,10\"")
    .access(
        |reader, value| {
            if let Some(text) = value.text() {
                match text.parse() {
                    Ok(cpus) => reader.config.receive.cpus = Some(cpus),
                    Err(error) => value.wrong(error, "a list of CPUs such as \"2-7,10\""),
                }
            }
        },
        |config| json!(config.receive.cpus.as_ref().map(ToString::to_string)),
    ),
    Setting::new(
        "receive.sockets_per_queue",
        Kind::Number { of: "a number", least: 1, most: MAX_SOCKETS },
        Absent("as many as give each CPU a worker"),
    )
    .flag("--sockets-per-queue")
    .text("Sockets of each queue, with one worker each.")
    .example("2")
    .access(
        |reader, value| {
            reader.config.receive.sockets_per_queue = value.number().map(|sockets| sockets as u32);
        },
        |config| json!(config.receive.sockets_per_queue),
    ),
    Setting::new("receive.flow_affinity", Kind::Switch, Is("\"on\""))
        .flag("--flow-affinity")
        .text("One worker analyses all packets of a flow, whichever queue they arrive on.")
        .example("\"on\"")
        .access(
            |reader, value| set(&mut reader.config.receive.flow_affinity, value.switch()),
            |config| switch(config.receive.flow_affinity),
        ),
    Setting::new(
        "receive.ring",
        Kind::Number { of: "a power of two", least: 256, most: 262_144 },
        Absent("2048 to 32768, so that the buffers take at most a sixteenth of the memory"),
    )
    .flag("--ring")
    .text("The most frames that can wait for a worker: a power of two.")
    .more("Each queue has twice as many buffers of 4 KiB.")
    .example("32768")
    .access(
        |reader, value| {
            if let Some(ring) = value.number() {
                if !ring.is_power_of_two() {
                    value.wrong(format!("{ring} is not a power of two"), "such as 16384");
                }
                reader.config.receive.ring = Some(ring as u32);
            }
        },
        |config| json!(config.receive.ring),
    ),
    Setting::new(
        "receive.busy_poll",
        Kind::Number { of: "a number of microseconds", least: 0, most: 10_000 },
        Is("0"),
    )
    .flag("--busy-poll")
    .text(
        "Workers poll for frames continuously, for this many microseconds in each call; 0: they wait for \
         interrupts.",
    )
    .example("0")
    .access(
        |reader, value| {
            if let Some(microseconds) = value.number() {
                reader.config.receive.busy_poll = BusyPoll::of(microseconds as u32);
            }
        },
        |config| json!(config.receive.busy_poll.map_or(0, BusyPoll::microseconds)),
    ),
];

const KEEP: &[&str] = &["all", "alerts"];
/// The permissions of files in the store; others may write to them if the user says so.
const STORE_FILE: Kind = Kind::Permissions { least: 0o600, most: 0o777 };
const STORE_DIRECTORY: Kind = Kind::Permissions { least: 0o700, most: 0o777 };

const STORE: &[Setting] = &[
    Setting::new("store.segment_size", Kind::bytes(16 << 20), Is("\"256MiB\""))
        .text("The size at which a segment is complete.")
        .example("\"256MiB\"")
        .access(
            |reader, value| set(&mut reader.config.store.settings.segment_size, value.bytes()),
            |config| json!(config.store.settings.segment_size),
        ),
    Setting::new("store.segment_time", Kind::TIME, Is("\"10min\""))
        .text("The age at which a segment is complete.")
        .example("\"10min\"")
        .access(
            |reader, value| set(&mut reader.config.store.settings.segment_time, value.time()),
            |config| time(config.store.settings.segment_time),
        ),
    Setting::new("store.memory", Kind::bytes(8 << 20), Is("\"64MiB\""))
        .text("Memory for each worker's packets that wait for the disk.")
        .example("\"64MiB\"")
        .access(
            |reader, value| set(&mut reader.config.store.settings.memory, value.bytes()),
            |config| json!(config.store.settings.memory),
        ),
    Setting::new("store.vnis", VNIS, Absent("all"))
        .live()
        .text("VNIs whose packets are stored.")
        .example("[7, \"100-199\"]")
        .access(
            |reader, value| reader.config.store.settings.policy.vnis = Some(vni_ranges(value)),
            |config| json!(config.store.settings.policy.vnis.as_deref().map(vnis)),
        ),
    Setting::new("store.rules",
        Kind::List { of: sections::STORE_RULES, most: usize::MAX },
        Absent("the packets that any rule accepts"),
    )
    .text("Rules of [filter] whose packets are stored: a set, a rule of it, or several.")
    .example("[\"office/100\", \"office/300-400\"]")
    .access(
        |reader, value| reader.store_rules = Some(value.clone()),
        |config| {
            let rules = config.store.settings.policy.rules.as_ref();
            json!(rules.map(|rules| rules.iter().map(ToString::to_string).collect::<Vec<_>>()))
        },
    ),
    Setting::new("store.keep", Kind::Word(KEEP), Is("\"all\""))
        .text("\"all\", or \"alerts\": flows that raise an alert ([alerts]), with the packets before it.")
        .example("\"alerts\"")
        .access(
            |reader, value| reader.keeps_alerts = value.word() == Some("alerts"),
            |config| json!(if config.store.settings.policy.pre_trigger.is_some() { "alerts" } else { "all" }),
        ),
    Setting::new("store.pre_trigger",
        Kind::Bytes { least: 1 << 20, most: 2 << 30 },
        Is("\"32MiB\""),
    )
    .text("Memory for each worker's latest packets, which wait for an alert if keep = \"alerts\".")
    .example("\"32MiB\"")
    .access(
        |reader, value| reader.pre_trigger = Some(value.clone()),
        |config| json!(config.store.settings.policy.pre_trigger),
    ),
    Setting::new("store.packet", Kind::Other(sections::PACKET), Is("\"whole\""))
        .live()
        .text("The stored part of a packet: \"whole\", \"headers\", or a number of bytes at its beginning.")
        .example("\"whole\"")
        .access(sections::packet, |config| match config.store.settings.policy.packet {
            Kept::Whole => json!("whole"),
            Kept::Headers => json!("headers"),
            Kept::First(bytes) => json!(bytes),
        }),
    Setting::new("store.flow_bytes", Kind::bytes(1), Absent("all of it"))
        .live()
        .text("The stored part of a flow, from its beginning.")
        .example("\"10MiB\"")
        .access(
            |reader, value| reader.config.store.settings.policy.flow = value.bytes(),
            |config| json!(config.store.settings.policy.flow),
        ),
    Setting::new("store.compression",
        Kind::Number { of: "zstd's level", least: 1, most: 19 },
        Absent("nothing is compressed"),
    )
    .text("The compression level of zstd.")
    .example("1")
    .access(
        |reader, value| reader.config.store.settings.compression = value.number().map(|level| level as i32),
        |config| json!(config.store.settings.compression),
    ),
    Setting::new("store.key", Kind::Other("the name of a file"), Absent("nothing is encrypted"))
        .needs_file()
        .text("File of the key that encrypts segments: 32 bytes, or 64 hexadecimal digits.")
        .more(
            "The file must belong to root or the user who captures; others must not be able to read it (chmod \
             640), and its group must not be able to write to it.",
        )
        .example("\"/etc/mirror-xdp/store.key\"")
        .access(
            |reader, value| reader.config.store.key = value.text().map(Into::into),
            |config| json!(config.store.key.as_deref().map(path)),
        ),
    Setting::new("store.file_mode", STORE_FILE, Is("\"0640\""))
        .text("Permissions of the store's files, as for chmod.")
        .more("Existing files keep theirs.")
        .example("\"0640\"")
        .access(
            |reader, value| set(&mut reader.config.store.settings.permissions.file, value.permissions()),
            |config| mode(config.store.settings.permissions.file),
        ),
    Setting::new("store.directory_mode", STORE_DIRECTORY, Is("\"0750\""))
        .text("Permissions of the store's directory if it is created.")
        .example("\"0750\"")
        .access(
            |reader, value| set(&mut reader.config.store.settings.permissions.directory, value.permissions()),
            |config| mode(config.store.settings.permissions.directory),
        ),
    Setting::new("store.max_size", Kind::bytes(0), Absent("no limit"))
        .live()
        .text("Retention: the most bytes of the store.")
        .example("\"500GiB\"")
        .access(
            |reader, value| reader.config.store.settings.retention.max_size = value.bytes(),
            |config| json!(config.store.settings.retention.max_size),
        ),
    Setting::new("store.min_free", Kind::bytes(0), Absent("no limit"))
        .live()
        .text("Retention: bytes that stay free on the store's file system.")
        .example("\"10GiB\"")
        .access(
            |reader, value| reader.config.store.settings.retention.min_free = value.bytes(),
            |config| json!(config.store.settings.retention.min_free),
        ),
    Setting::new("store.max_age", Kind::TIME, Absent("no limit"))
        .live()
        .text("Retention: the age of a segment.")
        .example("\"30days\"")
        .access(
            |reader, value| reader.config.store.settings.retention.max_age = value.time(),
            |config| json!(config.store.settings.retention.max_age.map(time)),
        ),
    Setting::new("store.upload", Kind::Other(sections::UPLOAD), Absent("nothing is uploaded"))
        .flag("--store-upload")
        .text(
            "The destination to which finished segments are uploaded before they may be deleted: \
             s3://BUCKET/PREFIX or file:///DIRECTORY.",
        )
        .more(
            "The URL of a bucket has ?region=… and &endpoint=… if these are not in the environment. Credentials \
             come from the environment or the instance's role.",
        )
        .example("\"s3://packets.example/appliance-1?region=eu-central-1\"")
        .access(
            |reader, value| {
                reader.config.store.settings.upload =
                    value.text().and_then(|text| value.checked(text.parse()));
            },
            |config| json!(config.store.settings.upload.as_ref().map(ToString::to_string)),
        ),
    Setting::new("store.ages", Kind::List { of: "tables", most: usize::MAX }, Absent("none"))
        .live()
        .text("VNIs with an age of their own, see [[store.ages]].")
        .access(sections::ages, |config| {
            let ages = config.store.settings.retention.ages.iter();
            ages.map(|(of, age)| json!({ "vnis": vnis(of), "max_age": time(*age) })).collect()
        }),
];

const AGES: &[Setting] = &[
    Setting::new("store.ages.vnis", VNIS, Required).live().text("The VNIs.").example("[7]"),
    Setting::new("store.ages.max_age", Kind::TIME, Required)
        .live()
        .text("The age at which their packets may be deleted.")
        .example("\"365days\""),
];

const FLOW_SCOPE: &[&str] = &[FlowScope::Interface.name(), FlowScope::Vni.name()];

const ANALYSIS: &[Setting] = &[
    Setting::new("analysis.dedup", Kind::Switch, Is("\"off\""))
        .flag("--dedup")
        .text(
            "If both ends of conversations are mirrored, so that each packet arrives twice: analyse one copy, and \
             count the other.",
        )
        .example("\"on\"")
        .access(
            |reader, value| set(&mut reader.config.analysis.dedup, value.switch()),
            |config| switch(config.analysis.dedup),
        ),
    Setting::new("analysis.flow_scope", Kind::Word(FLOW_SCOPE), Is("\"interface\""))
        .flag("--flow-scope")
        .text(
            "The frames that make up one address space, within which packets with the same addresses and ports are \
             of one flow.",
        )
        .more(
            "\"interface\": those of one mirrored interface with one VNI. \"vni\": all with one VNI, for sessions that \
             mirror one direction each, and for overlays captured at both ends. The VNIs of several accounts can be \
             equal; then leave it at \"interface\".",
        )
        .example("\"vni\"")
        .access(
            |reader, value| {
                let scope = value.word().and_then(FlowScope::named);
                set(&mut reader.config.analysis.flow_scope, scope);
            },
            |config| json!(config.analysis.flow_scope.name()),
        ),
    Setting::new("analysis.analyzers",
        Kind::List { of: "names of analyzers", most: usize::MAX },
        Absent("those that are on by default"),
    )
    .live()
    .text("Analyzers to run, which write events.")
    .more("An analyzer enabled at run time emits nothing for flows already in progress.")
    .example_of(|| Enabled::default().names().collect())
    .access(sections::analyzers, |config| json!(config.analysis.analyzers.names().collect::<Vec<_>>())),
    Setting::new("analysis.inner_vxlan_ports",
        Kind::List { of: "UDP ports", most: TunnelPorts::MAX_VXLAN },
        Is("[4789, 8472]"),
    )
    .flag("--inner-vxlan-port")
    .live()
    .text("UDP ports of VXLAN within the mirrored packets, such as that of overlays of containers.")
    .more("Flannel and Cilium use 8472. What is in these packets has flows of its own.")
    .example("[4789, 8472]")
    .access(sections::inner_vxlan_ports, |config| {
        json!(config.analysis.tunnel_ports.vxlan().collect::<Vec<_>>())
    }),
    Setting::new("analysis.metrics_interval", Kind::seconds(86_400), Is("\"1min\""))
        .live()
        .text("The time covered by one `metrics` event of a service.")
        .example("\"1min\"")
        .access(
            |reader, value| set(&mut reader.config.analysis.metrics_interval, value.time()),
            |config| time(config.analysis.metrics_interval),
        ),
];

const SERVICES: &[Setting] = &[Setting::new("services.literals", Kind::Switch, Is("\"off\""))
    .flag("--literals")
    .live()
    .text("Write the statements of services with their literals. Otherwise, `?` stands for each.")
    .more("Literals are the data of applications: names, addresses, numbers of accounts. Passwords are never written.")
    .example("\"off\"")
    .access(
        |reader, value| set(&mut reader.config.services.literals, value.switch()),
        |config| switch(config.services.literals),
    )];

/// The longest timeout, in seconds.
const LONGEST_TIMEOUT: u64 = 7 * 86_400;

const TIMEOUTS: &[Setting] = &[
    Setting::new("timeouts.new", Kind::seconds(LONGEST_TIMEOUT), Is("\"30s\""))
        .live()
        .text("Packets of one side only.")
        .example("\"30s\"")
        .access(
            |reader, value| set(&mut reader.config.timeouts.new, seconds(value)),
            |config| time(Duration::from_secs(config.timeouts.new)),
        ),
    Setting::new("timeouts.established", Kind::seconds(LONGEST_TIMEOUT), Is("\"5min\""))
        .live()
        .text("Packets of both sides.")
        .example("\"5min\"")
        .access(
            |reader, value| set(&mut reader.config.timeouts.established, seconds(value)),
            |config| time(Duration::from_secs(config.timeouts.established)),
        ),
    Setting::new("timeouts.tcp_new", Kind::seconds(LONGEST_TIMEOUT), Is("\"1min\""))
        .live()
        .text("TCP: the handshake is not finished.")
        .example("\"1min\"")
        .access(
            |reader, value| set(&mut reader.config.timeouts.tcp_new, seconds(value)),
            |config| time(Duration::from_secs(config.timeouts.tcp_new)),
        ),
    Setting::new("timeouts.tcp_established", Kind::seconds(LONGEST_TIMEOUT), Is("\"10min\""))
        .live()
        .text("TCP: the connection is established.")
        .example("\"10min\"")
        .access(
            |reader, value| set(&mut reader.config.timeouts.tcp_established, seconds(value)),
            |config| time(Duration::from_secs(config.timeouts.tcp_established)),
        ),
    Setting::new("timeouts.tcp_closed", Kind::seconds(LONGEST_TIMEOUT), Is("\"1min\""))
        .live()
        .text("TCP: the connection is closed.")
        .example("\"1min\"")
        .access(
            |reader, value| set(&mut reader.config.timeouts.tcp_closed, seconds(value)),
            |config| time(Duration::from_secs(config.timeouts.tcp_closed)),
        ),
];

const ALERTS: &[Setting] = &[
    Setting::new("alerts.indicators", Kind::List { of: "indicators", most: usize::MAX }, Absent("none"))
        .live()
        .text(
            "Domains with all their subdomains, in DNS queries, TLS and QUIC server names and HTTP hosts; \
         addresses and networks; fingerprints of TLS and QUIC clients: JA3, JA4.",
        )
        .more("Their form determines their kind.")
        .example(
            "[\n  \"evil.example\",\n  \"203.0.113.0/24\",\n  \"e7d705a3286e19ea42f587b344ee6865\",\n  \
         \"t13d1516h2_8daaf6152771_b186095e22b6\",\n]",
        )
        .access(sections::indicators, |config| json!(config.alerts.indicators.len())),
    Setting::new("alerts.file", Kind::Path, Absent("none"))
        .live()
        .needs_file()
        .text("A file with more indicators, one a line; # begins a comment.")
        .example("\"/etc/mirror-xdp/indicators\"")
        .access(
            |reader, value| reader.config.alerts.file = value.path(),
            |config| json!(config.alerts.file.as_deref().map(path)),
        ),
];

const RULE_FILES: Kind = Kind::List { of: "paths of rule files", most: usize::MAX };
const VARIABLES: Kind = Kind::Other("a table of names and values such as { HOME_NET = \"10.0.0.0/8\" }");

const SIGNATURES: &[Setting] = &[
    Setting::new("signatures.files", RULE_FILES, Absent("no rules are loaded"))
        .live()
        .needs_file()
        .text("Rule files; *, ? and [...] stand for several.")
        .more("`mirror-xdp rules check` names the rules that are refused; the others are loaded.")
        .example("[\"/etc/mirror-xdp/rules/*.rules\"]")
        .access(signatures::files, |config| json!(config.signatures.sources.files)),
    Setting::new(
        "signatures.variables",
        VARIABLES,
        Absent("they are those that Suricata ships, and `any` for networks"),
    )
    .live()
    .text("Variables of addresses and ports in rules.")
    .example("{ HOME_NET = \"[10.0.0.0/8,192.168.0.0/16]\", EXTERNAL_NET = \"!$HOME_NET\" }")
    .access(signatures::variables, |config| {
        signatures::shown_variables(&config.signatures.sources.variables)
    }),
    Setting::new("signatures.classification", Kind::Path, Absent("the classes are those of published rules"))
        .live()
        .needs_file()
        .text("A classification.config: descriptions and priorities of further classes of rules.")
        .example("\"/etc/mirror-xdp/rules/classification.config\"")
        .access(
            |reader, value| reader.config.signatures.sources.classification = value.path(),
            |config| json!(config.signatures.sources.classification.as_deref().map(path)),
        ),
    Setting::new("signatures.thresholds", Kind::Path, Absent("only rules limit their alerts"))
        .live()
        .needs_file()
        .text("A threshold.config: limits on alerts, and hosts that raise none.")
        .example("\"/etc/mirror-xdp/rules/threshold.config\"")
        .access(
            |reader, value| reader.config.signatures.sources.thresholds = value.path(),
            |config| json!(config.signatures.sources.thresholds.as_deref().map(path)),
        ),
    Setting::new(
        "signatures.payload",
        Kind::List { of: "\"payload\", \"payload_printable\" or \"packet\"", most: usize::MAX },
        Absent("alerts have none of them"),
    )
    .live()
    .text("What alerts contain of the traffic: its data in base64 or printable, and the packet.")
    .example("[\"payload_printable\"]")
    .access(signatures::payload, |config| signatures::payload_names(config.signatures.payload)),
    Setting::new("signatures.tenants", Kind::List { of: "tables", most: usize::MAX }, Absent("none"))
        .live()
        .text("VNIs with rules or variables of their own, see [[signatures.tenants]].")
        .access(signatures::tenants, |config| signatures::shown_tenants(&config.signatures)),
];

const TENANTS: &[Setting] = &[
    Setting::new("signatures.tenants.name", Kind::Other("a name"), Required)
        .live()
        .text("The name in messages, which no other tenant has.")
        .example("\"office\""),
    Setting::new("signatures.tenants.vnis", VNIS, Required)
        .live()
        .text("The VNIs, which belong to no other tenant.")
        .example("[7, \"100-199\"]"),
    Setting::new("signatures.tenants.variables", VARIABLES, Absent("those of [signatures]"))
        .live()
        .text("Variables that differ from those of [signatures].")
        .example("{ HOME_NET = \"172.16.0.0/12\" }"),
    Setting::new("signatures.tenants.files", RULE_FILES, Absent("those of [signatures]"))
        .live()
        .needs_file()
        .text("The rule files, in place of those of [signatures].")
        .example("[\"/etc/mirror-xdp/rules/*.rules\", \"/etc/mirror-xdp/office.rules\"]"),
];

/// The permissions of files of records; others may not write to them.
const EVE_FILE: Kind = Kind::Permissions { least: 0o600, most: 0o775 };
const EVE_DIRECTORY: Kind = Kind::Permissions { least: 0o700, most: 0o775 };

const EVE: &[Setting] = &[
    Setting::new(
        "eve.output",
        Kind::Other("a file, \"-\", \"unix-stream:PATH\" or \"unix-dgram:PATH\""),
        Is("\"eve.json\""),
    )
    .flag("--eve-output")
    .text(
        "Destination of the records: a file in the log directory or with a path, \"-\" for stdout, \
         \"unix-stream:PATH\" or \"unix-dgram:PATH\".",
    )
    .example("\"eve.json\"")
    .access(sections::output, |config| path(&config.eve.output)),
    Setting::new("eve.types", Kind::List { of: "kinds of events", most: usize::MAX }, Absent("all"))
        .flag("--eve-types")
        .text("The kinds of events to write.")
        .example_of(|| EventTypes::KNOWN.to_vec())
        .access(sections::event_types, |config| json!(config.eve.types.chosen())),
    Setting::new("eve.names", Kind::List { of: "paths of files", most: usize::MAX }, Absent("none"))
        .flag("--names")
        .text("Files with the names of mirror sessions and hosts, as `mirror-xdp aws watch` writes them.")
        .more("They need not exist yet, and are read again when they change.")
        .example("[\"/run/mirror-xdp-aws/sessions.json\", \"/etc/mirror-xdp/hosts.json\"]")
        .access(sections::names, |config| config.eve.names.iter().map(|file| path(file)).collect()),
    Setting::new("eve.rotate_size", Kind::bytes(1), Absent("no limit"))
        .flag("--rotate-size")
        .live()
        .text(
            "The file is rotated, to a name such as eve.json.20261125-051403 (UTC), before it exceeds this \
             size.",
        )
        .more("SIGHUP reopens the file after another program has moved it.")
        .example("\"1GiB\"")
        .access(
            |reader, value| reader.config.eve.rotation.size = value.bytes(),
            |config| json!(config.eve.rotation.size),
        ),
    Setting::new(
        "eve.rotate_interval",
        Kind::Time { least: Duration::from_secs(1), most: Duration::MAX, is_whole: false },
        Absent("never"),
    )
    .flag("--rotate-interval")
    .live()
    .text("The file is rotated at this interval; \"1h\": on the hour.")
    .example("\"1h\"")
    .access(
        |reader, value| reader.config.eve.rotation.interval = value.time(),
        |config| json!(config.eve.rotation.interval.map(time)),
    ),
    Setting::new(
        "eve.rotate_keep",
        Kind::Number { of: "a number of files", least: 0, most: 1_000_000 },
        Absent("all"),
    )
    .flag("--rotate-keep")
    .live()
    .text("The number of rotated files to keep; older ones are removed.")
    .example("48")
    .access(
        |reader, value| reader.config.eve.rotation.keep = value.number().map(|files| files as usize),
        |config| json!(config.eve.rotation.keep),
    ),
    Setting::new("eve.file_mode", EVE_FILE, Is("\"0640\""))
        .text("Permissions of the files; the umask may remove some.")
        .example("\"0640\"")
        .access(
            |reader, value| set(&mut reader.config.eve.modes.file, value.permissions()),
            |config| mode(config.eve.modes.file),
        ),
    Setting::new("eve.directory_mode", EVE_DIRECTORY, Is("\"0750\""))
        .text("Permissions of directories created for the files; the umask may remove some.")
        .example("\"0750\"")
        .access(
            |reader, value| set(&mut reader.config.eve.modes.directory, value.permissions()),
            |config| mode(config.eve.modes.directory),
        ),
];

const ADDRESS: Kind = Kind::Other("an address with a port, such as \"127.0.0.1:9470\", or \"off\"");

const API: &[Setting] = &[
    Setting::new("api.listen", ADDRESS, Is("\"127.0.0.1:9470\""))
        .flag("--api")
        .text("Address of the HTTP API, its metrics and its page, or \"off\".")
        .more(
            "Other hosts can reach any address except the loopback addresses 127.0.0.1 and ::1; such an \
             address requires a token.",
        )
        .example("\"127.0.0.1:9470\"")
        .access(
            |reader, value| set(&mut reader.config.api.listen, sections::address(value)),
            |config| json!(config.api.listen.to_string()),
        ),
    Setting::new("api.health", ADDRESS, Is("\"off\""))
        .flag("--health")
        .text("Additional address that answers only health checks, for load balancers: /healthz, /readyz.")
        .example("\"0.0.0.0:9471\"")
        .access(
            |reader, value| set(&mut reader.config.api.health, sections::address(value)),
            |config| json!(config.api.health.to_string()),
        ),
    Setting::new("api.token_file", Kind::Path, Absent("no token"))
        .flag("--api-token-file")
        .needs_file()
        .text("File with the token that clients of the API must send; required if other hosts can reach it.")
        .more(
            "One line, which clients send as `Authorization: Bearer …`. As for the key of the store, others \
             must not be able to read it (chmod 640).",
        )
        .example("\"/etc/mirror-xdp/token\"")
        .access(
            |reader, value| reader.config.api.token_file = value.path(),
            |config| json!(config.api.token_file.as_deref().map(path)),
        ),
];

const FILTER: &[Setting] = &[
    Setting::new(
        "filter.default",
        Kind::Other("the name of a set"),
        Absent("their frames are captured whole"),
    )
    .live()
    .text("The set for VNIs that are bound to none.")
    .example("\"office\"")
    .access(
        |reader, value| reader.default_set = Some(value.clone()),
        |config| {
            let policy = &config.policy;
            let set = policy.default_set.and_then(|set| policy.sets.get(set));
            json!(set.map(|set| set.name.as_str()))
        },
    ),
    Setting::new("filter.macs", Kind::List { of: "hardware addresses", most: limits::MACS }, Absent("none"))
        .live()
        .text(
            "Hardware addresses of the mirrored interfaces, which determine a packet's direction: ingress is \
             to one of them, egress from one.",
        )
        .more("If the direction is unknown, the rules of both directions are tried.")
        .example("[\"02:00:00:00:00:01\", \"02:00:00:00:00:02\"]")
        .access(sections::macs, |config| json!(config.policy.macs.len())),
    Setting::new("filter.sets", Kind::List { of: "tables", most: limits::SETS }, Absent("none"))
        .live()
        .text("The sets of rules, see [[filter.sets]].")
        .access(sections::sets, |config| json!(config.policy.sets.len())),
];

const SETS: &[Setting] = &[
    Setting::new("filter.sets.name", Kind::Other("a name"), Required)
        .live()
        .text("The name, which no other set has.")
        .example("\"office\""),
    Setting::new("filter.sets.vnis", VNIS, Absent("none"))
        .live()
        .text("The VNIs whose packets the set decides on; in no other set.")
        .example("[7, \"100-199\"]"),
    Setting::new("filter.sets.rules", Kind::List { of: "tables", most: usize::MAX }, Absent("none"))
        .live()
        .text("The rules, see [[filter.sets.rules]]; at most 4,096 in all sets together."),
];

const DIRECTION: &[&str] = &["ingress", "egress", "both"];

const RULES: &[Setting] = &[
    Setting::new(
        "filter.sets.rules.number",
        Kind::Number { of: "a number", least: 1, most: u32::MAX as u64 },
        Required,
    )
    .live()
    .text("The place in the order of the rules; at most once in each direction of a set.")
    .example("100"),
    Setting::new("filter.sets.rules.direction", Kind::Word(DIRECTION), Is("\"both\""))
        .live()
        .text("The direction of the packets.")
        .example("\"ingress\""),
    Setting::new("filter.sets.rules.action", Kind::Other(sections::ACTION), Required)
        .live()
        .text("\"accept\", \"reject\", \"shunt\", \"sample 1/N\" or \"truncate N\".")
        .example("\"accept\""),
    Setting::new(
        "filter.sets.rules.protocol",
        Kind::Other("the name of a protocol, or its IANA number from 0 to 255"),
        Absent("any"),
    )
    .live()
    .text("The IP protocol.")
    .example("\"tcp\""),
    Setting::new("filter.sets.rules.source", NETWORK, Absent("any"))
        .live()
        .text("The network of the source address.")
        .example("\"10.0.0.0/8\""),
    Setting::new("filter.sets.rules.destination", NETWORK, Absent("any"))
        .live()
        .text("The network of the destination address, of the same family as the source.")
        .example("\"10.9.0.0/16\""),
    Setting::new("filter.sets.rules.source_ports", PORT_RANGE, Absent("any"))
        .live()
        .text("The source ports; for tcp, udp and sctp.")
        .example("\"1024-65535\""),
    Setting::new("filter.sets.rules.destination_ports", PORT_RANGE, Absent("any"))
        .live()
        .text("The destination ports; for tcp, udp and sctp.")
        .example("443"),
];

const VNIS: Kind = Kind::List { of: "VNIs and ranges such as \"100-199\"", most: usize::MAX };
const NETWORK: Kind = Kind::Other("a network such as \"10.0.0.0/8\"");
const PORT_RANGE: Kind = Kind::Other("a range such as \"1024-65535\", or a port from 0 to 65535");

/// Stores a value unless it is wrong; its mistake has been reported then.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn seconds(value: &super::document::Value<'_>) -> Option<u64> {
    value.time().map(|time| time.as_secs())
}

fn switch(on: bool) -> Json {
    json!(if on { "on" } else { "off" })
}

fn time(time: Duration) -> Json {
    json!(humantime::format_duration(time).to_string())
}

/// Formats a path; one that is not UTF-8 with replacement characters.
fn path(path: &Path) -> Json {
    json!(path.to_string_lossy())
}

fn mode(mode: u32) -> Json {
    json!(format!("{mode:04o}"))
}

/// Formats ranges of VNIs as the file has them.
fn vnis(ranges: &[RangeInclusive<u32>]) -> Json {
    let written = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
        (first, last) if first == last => json!(first),
        (first, last) => json!(format!("{first}-{last}")),
    };
    ranges.iter().map(written).collect()
}
