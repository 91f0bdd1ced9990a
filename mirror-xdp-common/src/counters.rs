//! One counter for each possible fate of a frame in the XDP program.
//!
//! This identity holds at any moment without traffic: `seen = Σ passed + Σ dropped + Σ shunted + redirected`.
//! Observations about frames are counted in addition, whatever the fate of the frame.
//!
//! The programs of the mirror source count in the same way: [`crate::source::SourceCounter`].

/// The fate of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Counted when the frame enters the program, before it is parsed.
    Seen,
    /// Passed to the kernel's network stack, unchanged.
    Passed,
    /// Dropped, for the reason in the counter's name.
    Dropped,
    /// Counted and dropped, on request.
    Shunted,
    /// Redirected to an `AF_XDP` socket.
    Redirected,
    /// No fate: the counter is an additional observation about the frame.
    Noted,
}

/// Declares an enum of counters: each with the fate of the frame (a variant of the type after `of`) and its
/// name in statistics.
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
            /// The number of counters.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns the name in statistics and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the fate of the frames that it counts.
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
    /// A later fragment of some UDP datagram. Without ports its flow is unknown, so the kernel gets it.
    LaterFragment = Passed "outer_later_fragment",
    /// The headers that distinguish mirror traffic reach beyond the frame's first buffer. The kernel gets the
    /// frame, because it may be the host's own traffic: losing a session to the host is worse than losing a
    /// frame.
    OuterNotLinear = Passed "outer_not_linear",
    /// The first fragment of a mirrored datagram. AWS does not fragment, it truncates.
    OuterFragment = Dropped "outer_fragment",
    /// The outer IP length is shorter than its headers or longer than the frame.
    OuterIpLength = Dropped "outer_ip_length",
    /// The outer UDP length is shorter than its header or longer than the IP payload.
    OuterUdpLength = Dropped "outer_udp_length",
    /// GENEVE, but with a payload other than an Ethernet frame or a mirrored datagram, such as traffic that a
    /// Gateway Load Balancer has inspected. The kernel gets it, because it may be the host's own.
    GeneveNotMirror = Passed "geneve_not_mirror",
    /// The datagram ends within the VXLAN header.
    VxlanTruncated = Dropped "vxlan_truncated",
    /// The VXLAN header's I flag is not set, so it has no valid VNI.
    VxlanNoVni = Dropped "vxlan_no_vni",
    /// VXLAN-GPE with a payload other than an Ethernet frame.
    VxlanNextProtocol = Dropped "vxlan_next_protocol",
    /// The datagram ends within the GENEVE header or its options.
    GeneveTruncated = Dropped "geneve_truncated",
    /// GENEVE of a version other than 0, the only defined one.
    GeneveVersion = Dropped "geneve_version",
    /// The bytes after the outer headers are fewer than an Ethernet header.
    InnerTooShort = Dropped "inner_too_short",
    /// Mirror traffic whose outer headers reach beyond the frame's first buffer, so that they cannot be
    /// removed.
    HeadersNotLinear = Dropped "headers_not_linear",
    /// The kernel refused to move the frame's start or end.
    NoHeadroom = Dropped "no_headroom",
    /// From an outer source that is not admitted.
    SourceNotAdmitted = Dropped "source_not_admitted",
    /// From an unknown VNI, while only known ones are admitted.
    VniNotAdmitted = Dropped "vni_not_admitted",
    /// Rejected by a filter rule, or because no rule of the VNI's set matched.
    FilterRejected = Dropped "filter_rejected",
    /// Of a flow that a rule's sample does not include.
    SampledOut = Dropped "sampled_out",
    /// No socket is bound to the queue that received the frame.
    NoSocket = Dropped "no_socket",
    /// Of a flow that user space no longer needs.
    FlowShunted = Shunted "flow",
    /// Shunted by a filter rule.
    RuleShunted = Shunted "rule",
    /// Redirected to a socket.
    Redirected = Redirected "redirected",
    /// The VXLAN header had VXLAN-GPE's P flag.
    VxlanGpe = Noted "vxlan_gpe",
    /// The VXLAN header had the group policy extension's G flag.
    VxlanGroupPolicy = Noted "vxlan_group_policy",
    /// The inner headers reach beyond the frame's first buffer: the decision is based on the bytes within it.
    InnerNotLinear = Noted "inner_not_linear",
    /// Judged by all the rules, because the decision on the flow's last packet does not apply.
    Judged = Noted "judged",
    /// Of a VNI for which there is no room to keep counters.
    VniUncounted = Noted "vni_uncounted",
}

/// The value of the per-CPU counter map: one array of counters per CPU.
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
