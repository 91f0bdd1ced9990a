//! One counter for each thing that can happen to a frame in the XDP program.
//!
//! The identity that holds at any moment without traffic:
//! `seen = Σ passed + Σ dropped + Σ shunted + redirected`.
//! What is noted of frames is counted besides, whatever became of them.
//!
//! The mirror source's programs count in the same way: [`crate::source::SourceCounter`].

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Counted when the frame enters the program, before anything is known of it.
    Seen,
    /// Given to the kernel's network stack, untouched.
    Passed,
    /// Dropped, for the reason that the counter names.
    Dropped,
    /// Counted and dropped, as it was asked for.
    Shunted,
    /// Given to an `AF_XDP` socket.
    Redirected,
    /// Nothing: the counter says something of the frame besides.
    Noted,
}

/// Declares an enum of counters: each with what it says of a frame (a variant of the type after `of`)
/// and its name in statistics.
macro_rules! counters {
    (
        $(#[$counter_doc:meta])* enum $counter:ident of $fate_type:ident;
        $($(#[$doc:meta])* $variant:ident = $fate:ident $name:literal,)*
    ) => {
        $(#[$counter_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $counter { $($(#[$doc])* $variant,)* }

        impl $counter {
            /// All counters, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many counters there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in statistics and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What became of the frames that it counts.
            #[must_use]
            pub const fn fate(self) -> $fate_type {
                match self { $(Self::$variant => $fate_type::$fate,)* }
            }
        }
    };
}
pub(crate) use counters;

counters! {
    /// A counter of the XDP program. The discriminant is the index in the per-CPU array.
    enum Counter of Fate;

    /// Every frame that entered the program.
    Seen = Seen "seen",
    /// Not mirror traffic.
    NotMirror = Passed "not_mirror",
    /// A later fragment of some UDP datagram: without ports nobody can say whose, so the kernel gets it.
    LaterFragment = Passed "outer_later_fragment",
    /// The headers that tell mirror traffic from other reach beyond the frame's first buffer. The kernel
    /// gets the frame: it may be the host's own traffic, and a lost session to it is worse than a lost
    /// frame.
    OuterNotLinear = Passed "outer_not_linear",
    /// The first fragment of a mirrored datagram. AWS does not fragment, it truncates.
    OuterFragment = Dropped "outer_fragment",
    /// The outer IP length is shorter than its headers or longer than the frame.
    OuterIpLength = Dropped "outer_ip_length",
    /// The outer UDP length is shorter than its header or longer than the IP payload.
    OuterUdpLength = Dropped "outer_udp_length",
    /// GENEVE, but with something else inside than an Ethernet frame or a mirrored datagram, such as the
    /// traffic that a Gateway Load Balancer has inspected. The kernel gets it: it may be the host's.
    GeneveNotMirror = Passed "geneve_not_mirror",
    /// The datagram ends within the VXLAN header.
    VxlanTruncated = Dropped "vxlan_truncated",
    /// The VXLAN header's I flag is not set, so it carries no VNI.
    VxlanNoVni = Dropped "vxlan_no_vni",
    /// VXLAN-GPE with something else inside than an Ethernet frame.
    VxlanNextProtocol = Dropped "vxlan_next_protocol",
    /// The datagram ends within the GENEVE header or its options.
    GeneveTruncated = Dropped "geneve_truncated",
    /// GENEVE of another version than 0, the only one there is.
    GeneveVersion = Dropped "geneve_version",
    /// What follows the outer headers is shorter than an Ethernet header.
    InnerTooShort = Dropped "inner_too_short",
    /// Mirror traffic, but its outer headers reach beyond the frame's first buffer, so they cannot be
    /// taken off.
    HeadersNotLinear = Dropped "headers_not_linear",
    /// The kernel refused to move the frame's start or end.
    NoHeadroom = Dropped "no_headroom",
    /// From an outer source that is not admitted.
    SourceNotAdmitted = Dropped "source_not_admitted",
    /// Of a VNI that is not known, where only known ones are taken.
    VniNotAdmitted = Dropped "vni_not_admitted",
    /// Rejected by a filter rule, or because no rule of the VNI's set matched.
    FilterRejected = Dropped "filter_rejected",
    /// Of a flow that a rule's sample does not include.
    SampledOut = Dropped "sampled_out",
    /// No socket is bound to the queue that the frame came in by.
    NoSocket = Dropped "no_socket",
    /// Of a flow that user space no longer wants to see.
    FlowShunted = Shunted "flow",
    /// Shunted by a filter rule.
    RuleShunted = Shunted "rule",
    /// Given to a socket.
    Redirected = Redirected "redirected",
    /// The VXLAN header had VXLAN-GPE's P flag.
    VxlanGpe = Noted "vxlan_gpe",
    /// The VXLAN header had the group policy extension's G flag.
    VxlanGroupPolicy = Noted "vxlan_group_policy",
    /// The inner headers reach beyond the frame's first buffer: the frame was judged by what lay within.
    InnerNotLinear = Noted "inner_not_linear",
    /// Judged by all the rules, and not as the flow's last packet was.
    Judged = Noted "judged",
    /// Of a VNI that there was no room to keep counters for.
    VniUncounted = Noted "vni_uncounted",
}

/// The value of the per-CPU counter map: one array of counters a CPU.
pub type CounterArray = [u64; Counter::COUNT];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_order_of_declaration() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }

    #[test]
    fn names_are_unique() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert!(Counter::ALL[..index].iter().all(|other| other.name() != counter.name()));
        }
    }
}
