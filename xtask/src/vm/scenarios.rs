//! The cases of each guest and their expected results.

/// The kernel that a guest boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KernelChoice {
    /// The newest kernel that Debian has, with the drivers of real NICs.
    Newest,
    /// The oldest supported kernel.
    Oldest,
}

/// A virtual machine and its cases.
#[derive(Debug)]
pub(super) struct Guest {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// The feature that it tests.
    pub(super) what: &'static str,
    /// The kernel that it boots.
    pub(super) kernel: KernelChoice,
    /// Its NICs, as arguments of QEMU's `-device`; one hub joins them all.
    pub(super) nics: &'static [&'static str],
    /// The drivers that it loads.
    pub(super) modules: &'static [&'static str],
    /// The commands that it runs, which are functions of `guest.sh`.
    pub(super) script: &'static str,
    /// The expected results, in the order of the script.
    pub(super) cases: &'static [Case],
}

/// A capture in a guest.
#[derive(Debug)]
pub(super) struct Case {
    /// Its name in the script.
    pub(super) name: &'static str,
    /// The device that captures.
    pub(super) device: &'static str,
    /// The mode requested.
    pub(super) asked: &'static str,
    /// The expected result.
    pub(super) expect: Expect,
}

/// The expected result of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Frames arrive, in this mode.
    Frames {
        /// `native` or `generic`.
        mode: &'static str,
        /// True for zero-copy mode.
        zero_copy: bool,
        /// Texts expected in the output, on standard error or from the script.
        says: &'static [&'static str],
    },
    /// The capture refuses to start, with a message that contains this.
    Refusal(&'static str),
    /// No capture: the doctor mends these settings and afterwards finds all of them fine.
    Mended(&'static [&'static str]),
}

const fn zero_copy(name: &'static str, device: &'static str, asked: &'static str) -> Case {
    zero_copy_that_says(name, device, asked, &[])
}

const fn zero_copy_that_says(
    name: &'static str,
    device: &'static str,
    asked: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { name, device, asked, expect: Expect::Frames { mode: "native", zero_copy: true, says } }
}

const fn copied(
    name: &'static str,
    device: &'static str,
    asked: &'static str,
    mode: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { name, device, asked, expect: Expect::Frames { mode, zero_copy: false, says } }
}

const fn refused(name: &'static str, device: &'static str, asked: &'static str, says: &'static str) -> Case {
    Case { name, device, asked, expect: Expect::Refusal(says) }
}

/// The NIC that sends: every driver supports that, in copy mode.
const SENDER: &str = "virtio-net-pci";

/// All guests.
pub(super) const GUESTS: &[Guest] = &[
    Guest {
        name: "igb",
        what: "a NIC with several queues whose driver supports zero-copy",
        kernel: KernelChoice::Newest,
        nics: &["igb", SENDER],
        modules: &["igb", "virtio_pci", "virtio_net"],
        script: "\
pair eth0 eth1
ethtool -L eth0 combined 2
ethtool -N eth0 rx-flow-hash udp4 sdfn
await 100 carrier eth0
capture zero-copy mixed --zero-copy required
capture auto mixed
capture 'sockets per queue' mixed --zero-copy required --sockets-per-queue 2
capture copy mixed --zero-copy off
capture 'link flap' flap --zero-copy required
restarts restart --zero-copy required
/bin/ip link set dev eth0 mtu 9001; /bin/ip link set dev eth1 mtu 9001
capture jumbo jumbo
ethtool -N eth0 rx-flow-hash udp4 sd
ethtool -X eth0 hkey ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff
ethtool -L eth0 combined 1
doctor doctor
",
        cases: &[
            zero_copy("zero-copy", "igb", "zero-copy required"),
            zero_copy("auto", "igb", "auto"),
            zero_copy("sockets per queue", "igb", "zero-copy, 2 sockets a queue"),
            copied("copy", "igb", "zero-copy off", "native", &[]),
            zero_copy("link flap", "igb", "zero-copy required"),
            zero_copy("restart 1", "igb", "zero-copy required"),
            zero_copy("restart 2", "igb", "zero-copy required"),
            zero_copy("restart 3", "igb", "zero-copy required"),
            copied("jumbo", "igb", "auto, MTU 9001", "generic", &[]),
            Case {
                name: "doctor",
                device: "igb",
                asked: "--fix",
                expect: Expect::Mended(&["mtu", "channels", "rings", "udp_hash", "rss", "huge_pages"]),
            },
        ],
    },
    Guest {
        name: "settings",
        what: "the settings of a NIC that a capture changes and restores",
        kernel: KernelChoice::Newest,
        nics: &["igb", SENDER],
        modules: &["igb", "virtio_pci", "virtio_net"],
        script: "\
pair eth0 eth1
ethtool -L eth0 combined 2
await 100 carrier eth0
capture 'busy polling' polled --zero-copy required --busy-poll 50
settings after
capture 'busy polling, copy' polled --zero-copy off --busy-poll 50
interrupts_on 1
capture interrupts placed --zero-copy required --prepare --cpus 1
placement after
",
        cases: &[
            zero_copy_that_says(
                "busy polling",
                "igb",
                "zero-copy, busy polling",
                &["while: deferred 2 200000", "after: deferred 0 0"],
            ),
            copied("busy polling, copy", "igb", "zero-copy off, busy polling", "native", &[]),
            zero_copy_that_says(
                "interrupts",
                "igb",
                "--prepare, worker on CPU 1",
                &["while: interrupts on 0 0", "interrupts mended", "after: interrupts on 1 1"],
            ),
        ],
    },
    Guest {
        name: "virtio",
        what: "a cloud NIC with zero-copy and multi-buffer frames",
        kernel: KernelChoice::Newest,
        nics: &["virtio-net-pci,iommu_platform=on,disable-legacy=on", SENDER],
        modules: &["virtio_pci", "virtio_net"],
        script: "\
pair eth0 eth1
capture zero-copy mixed --zero-copy required
capture 'sockets per queue' mixed --zero-copy required --sockets-per-queue 2
capture 'link flap' flap --zero-copy required
restarts restart --zero-copy required
capture 'busy polling' polled --zero-copy required --busy-poll 50
/bin/ip link set dev eth0 mtu 9001; /bin/ip link set dev eth1 mtu 9001
capture jumbo jumbo
",
        cases: &[
            zero_copy("zero-copy", "virtio-net", "zero-copy required"),
            zero_copy("sockets per queue", "virtio-net", "zero-copy, 2 sockets a queue"),
            zero_copy("link flap", "virtio-net", "zero-copy required"),
            zero_copy("restart 1", "virtio-net", "zero-copy required"),
            zero_copy("restart 2", "virtio-net", "zero-copy required"),
            zero_copy("restart 3", "virtio-net", "zero-copy required"),
            zero_copy_that_says(
                "busy polling",
                "virtio-net",
                "zero-copy, busy polling",
                &["while: deferred 2 200000"],
            ),
            copied("jumbo", "virtio-net", "auto, MTU 9001", "native", &[]),
        ],
    },
    Guest {
        name: "fallback",
        what: "drivers that refuse zero-copy in different ways, and one without XDP",
        kernel: KernelChoice::Newest,
        nics: &[SENDER, "vmxnet3", SENDER],
        modules: &["virtio_pci", "virtio_net", "vmxnet3", "veth", "vxlan"],
        script: "\
pair eth0 eth2
capture 'virtio auto' mixed
capture 'virtio required' nothing --zero-copy required
/bin/ip link set dev eth0 down
pair eth1 eth2
capture 'vmxnet3 auto' mixed
capture 'vmxnet3 required' nothing --zero-copy required
/bin/ip link set dev eth1 down
/bin/ip link add v0 numrxqueues 2 numtxqueues 2 type veth peer name v1 numrxqueues 2 numtxqueues 2
pair v0 v1
capture 'veth auto' mixed
capture 'veth required' nothing --zero-copy required
/bin/ip link add vx0 type vxlan id 7 dev v0 remote 10.9.0.2 dstport 8472
/bin/ip link set dev vx0 up
IF=vx0
capture 'vxlan native' nothing --xdp-mode native
",
        cases: &[
            copied("virtio auto", "virtio-net", "auto", "native", &["zero-copy"]),
            refused("virtio required", "virtio-net", "zero-copy required", "zero-copy"),
            copied("vmxnet3 auto", "vmxnet3", "auto", "native", &["zero-copy"]),
            refused("vmxnet3 required", "vmxnet3", "zero-copy required", "zero-copy"),
            copied("veth auto", "veth", "auto", "native", &["zero-copy"]),
            refused("veth required", "veth", "zero-copy required", "zero-copy"),
            refused("vxlan native", "vxlan", "native", "native XDP"),
        ],
    },
    Guest {
        name: "oldest",
        what: "the oldest supported kernel",
        kernel: KernelChoice::Oldest,
        nics: &[SENDER, SENDER],
        modules: &["virtio_pci", "virtio_net", "veth"],
        script: "\
/bin/ip link add v0 numrxqueues 2 numtxqueues 2 type veth peer name v1 numrxqueues 2 numtxqueues 2
pair v0 v1
capture veth mixed
pair eth0 eth1
capture virtio mixed
",
        cases: &[
            copied("veth", "veth", "auto", "native", &[]),
            copied("virtio", "virtio-net", "auto", "native", &[]),
        ],
    },
];
