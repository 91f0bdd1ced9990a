//! Frames that a NIC and its driver lose before any program sees them, with the remedies.
//!
//! Each driver has its own names for such counters (`ethtool -S`), by queue or in total. [`select`] picks the
//! counters of losses among all of a driver's counters, under one name each; [`Known`] has the meaning of
//! such a counter. Some drivers count frames that an XDP program dropped on purpose together with frames that
//! they dropped themselves. Such a counter shows a loss only beyond the number that the account explains.

use serde::Serialize;

/// The meaning of a counter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames that were lost.
    Lost,
    /// Frames that were lost, and frames that the program dropped or a socket could not take.
    WithOurs,
}

/// A counter with a known meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name under which it is reported.
    pub name: &'static str,
    /// The meaning of its value.
    pub kind: Kind,
    /// The reason why frames are lost there.
    pub meaning: &'static str,
    /// The remedy.
    pub advice: &'static str,
    /// The driver that has it; `None` for a counter that the kernel has for every interface.
    driver: Option<&'static str>,
    /// The driver's name of it, without the queue.
    theirs: &'static str,
}

const SLOW: &str = "more queues (`mirror-xdp doctor --fix`), a larger ring, a faster CPU";
const MEMORY: &str = "free memory; lower vm.nr_hugepages if it is too high";
const INSTANCE: &str = "a larger instance, fewer mirrored interfaces for each appliance, filter rules in AWS";
const OVERSIZE: &str = "frames longer than one buffer: a smaller MTU (`mirror-xdp doctor` names it)";

const fn known(
    driver: &'static str,
    theirs: &'static str,
    kind: Kind,
    meaning: &'static str,
    advice: &'static str,
) -> Known {
    Known { name: theirs, kind, meaning, advice, driver: Some(driver), theirs }
}

const fn of_kernel(name: &'static str, meaning: &'static str, advice: &'static str) -> Known {
    Known { name, kind: Kind::Lost, meaning, advice, driver: None, theirs: name }
}

/// All counters that are known.
const KNOWN: &[Known] = &[
    // Counters of every interface, by netlink. `rx_dropped` is not among them: the network stack also counts
    // frames there that it has no use for.
    of_kernel("rx_missed_errors", "the NIC had no room", SLOW),
    of_kernel("rx_over_errors", "the NIC had no room", SLOW),
    of_kernel("rx_fifo_errors", "the NIC had no room", SLOW),
    of_kernel("rx_length_errors", "frames of an impossible length", OVERSIZE),
    of_kernel("rx_crc_errors", "frames were damaged on the way", "another cable or port"),
    known(
        "ena",
        "bw_in_allowance_exceeded",
        Kind::Lost,
        "more bytes than the instance may receive",
        INSTANCE,
    ),
    known("ena", "pps_allowance_exceeded", Kind::Lost, "more packets than the instance may have", INSTANCE),
    known(
        "ena",
        "conntrack_allowance_exceeded",
        Kind::Lost,
        "more connections than the security group can track",
        "a security group that lets UDP 4789 in from 0.0.0.0/0 and everything out is not tracked",
    ),
    known("ena", "rx_overruns", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("ena", "rx_drops", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("ena", "page_alloc_fail", Kind::Lost, "no memory for a buffer", MEMORY),
    known("ena", "xdp_drop", Kind::WithOurs, "dropped around the program", OVERSIZE),
    known("veth", "xdp_drops", Kind::WithOurs, "dropped around the program", OVERSIZE),
    known("veth", "drops", Kind::WithOurs, "the receiving end had no room", SLOW),
    known("virtio_net", "drops", Kind::WithOurs, "dropped around the program", OVERSIZE),
    known("igb", "rx_no_buffer_count", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("igb", "rx_long_length_errors", Kind::Lost, "frames longer than a buffer", OVERSIZE),
    known("igb", "drops", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("igb", "alloc_failed", Kind::Lost, "no memory for a buffer", MEMORY),
    known("igc", "rx_no_buffer_count", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("ixgbe", "rx_no_dma_resources", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("ixgbe", "alloc_rx_page_failed", Kind::Lost, "no memory for a buffer", MEMORY),
    known("ixgbe", "alloc_rx_buff_failed", Kind::Lost, "no memory for a buffer", MEMORY),
    known("i40e", "port.rx_dropped", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("i40e", "rx_alloc_fail", Kind::Lost, "no memory for a buffer", MEMORY),
    known("ice", "rx_dropped.nic", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("ice", "rx_alloc_fail", Kind::Lost, "no memory for a buffer", MEMORY),
    known("mlx5_core", "rx_out_of_buffer", Kind::Lost, "no descriptor was free in the ring", SLOW),
    known("mlx5_core", "rx_discards_phy", Kind::Lost, "the port's buffer was full", SLOW),
    known("mlx5_core", "rx_oversize_pkts_sw_drop", Kind::Lost, "frames longer than a buffer", OVERSIZE),
    known("mlx5_core", "rx_xsk_oversize_pkts_sw_drop", Kind::Lost, "frames longer than a buffer", OVERSIZE),
    known("mlx5_core", "rx_buff_alloc_err", Kind::Lost, "no memory for a buffer", MEMORY),
    known("mlx5_core", "rx_xsk_buff_alloc_err", Kind::Lost, "no free buffer in the fill ring", SLOW),
    known("mlx5_core", "rx_xdp_drop", Kind::WithOurs, "dropped around the program", OVERSIZE),
    known("mlx5_core", "rx_xsk_xdp_drop", Kind::WithOurs, "dropped around the program", OVERSIZE),
];

/// Counters with a known meaning, each once, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub Vec<(&'static Known, u64)>);

impl Counters {
    /// Returns the increase since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |known: &Known| earlier.get(known);
        // The counters of a device that was reset start at 0.
        let delta =
            |&(known, now): &(&'static Known, u64)| (known, now.checked_sub(before(known)).unwrap_or(now));
        Self(self.0.iter().map(delta).collect())
    }

    pub(super) fn get(&self, known: &Known) -> u64 {
        self.0.iter().find(|(other, _)| other.name == known.name).map_or(0, |&(_, count)| count)
    }

    /// Returns the losses that are reported nowhere else. `explained` is the number of frames in the account
    /// that the program dropped or a socket could not take.
    #[must_use]
    pub fn silent(&self, mut explained: u64) -> Self {
        let beyond = |&(known, count): &(&'static Known, u64)| match known.kind {
            Kind::Lost => (known, count),
            Kind::WithOurs => {
                let beyond = count.saturating_sub(explained);
                explained = explained.saturating_sub(count);
                (known, beyond)
            }
        };
        let mut counters = Self(self.0.iter().map(beyond).collect());
        counters.0.retain(|(_, count)| *count > 0);
        counters
    }
}

impl Serialize for Counters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(known, count)| (known.name, count)))
    }
}

/// Selects the counters of losses among a driver's own counters and the kernel's counters of its interface.
/// Counters of single queues are added up.
#[must_use]
pub fn select(driver: &str, theirs: &[(String, u64)], kernel: &[(&'static str, u64)]) -> Counters {
    let mut counters = Vec::new();
    for known in KNOWN {
        let values: Vec<u64> = match known.driver {
            Some(of) if of == driver => {
                let named = theirs.iter().filter(|(name, _)| without_queue(name) == known.theirs);
                named.map(|(_, count)| *count).collect()
            }
            Some(_) => continue,
            None => {
                kernel.iter().filter(|(name, _)| *name == known.theirs).map(|(_, count)| *count).collect()
            }
        };
        if !values.is_empty() {
            counters.push((known, values.iter().fold(0, |sum: u64, value| sum.saturating_add(*value))));
        }
    }
    Counters(counters)
}

/// Removes the receive queue from a counter's name: `queue_3_rx_xdp_drop` (ena), `rx_queue_3_drops` (veth,
/// virtio, igb), `rx3_drops` (newer virtio) are `xdp_drop`, `drops`, `drops`.
fn without_queue(name: &str) -> &str {
    for (before, after) in [("queue_", "_rx_"), ("rx_queue_", "_"), ("rx", "_")] {
        let Some(rest) = name.strip_prefix(before) else { continue };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if let Some(own) = rest[digits..].strip_prefix(after).filter(|_| digits > 0) {
            return own;
        }
    }
    name
}

impl Counters {
    /// These, but what a driver counts together with what others count too as it was before.
    #[must_use]
    pub fn settled(&self, before: &Self) -> Self {
        let settle = |&(known, now): &(&'static Known, u64)| match known.kind {
            Kind::Lost => (known, now),
            Kind::WithOurs => (known, before.get(known)),
        };
        Self(self.0.iter().map(settle).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(counters: &Counters) -> Vec<(&'static str, u64)> {
        counters.0.iter().map(|(known, count)| (known.name, *count)).collect()
    }

    fn recorded(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// Names from amzn-drivers, `kernel/linux/ena/ena_ethtool.c`; two queues, followed by one for `XDP_TX`.
    fn ena() -> Vec<(String, u64)> {
        recorded(&[
            ("tx_timeout", 1),
            ("interface_up", 1),
            ("bw_in_allowance_exceeded", 10),
            ("bw_out_allowance_exceeded", 99),
            ("pps_allowance_exceeded", 20),
            ("conntrack_allowance_exceeded", 0),
            ("linklocal_allowance_exceeded", 99),
            ("conntrack_allowance_available", 99),
            ("queue_0_tx_cnt", 99),
            ("queue_0_tx_missed_tx", 99),
            ("queue_0_rx_cnt", 1000),
            ("queue_0_rx_page_alloc_fail", 0),
            ("queue_0_rx_xdp_drop", 3),
            ("queue_0_rx_xdp_pass", 99),
            ("queue_0_rx_xdp_redirect", 99),
            ("queue_0_rx_zc_queue_pkt_copy", 99),
            ("queue_1_rx_xdp_drop", 4),
            ("queue_2_xdp_tx_cnt", 99),
            ("ena_admin_q_no_completion", 99),
        ])
    }

    #[test]
    fn of_ena_the_allowances_and_the_queues_drops_are_taken() {
        let kernel = [("rx_missed_errors", 0), ("rx_over_errors", 5)];
        assert_eq!(
            named(&select("ena", &ena(), &kernel)),
            [
                ("rx_missed_errors", 0),
                ("rx_over_errors", 5),
                ("bw_in_allowance_exceeded", 10),
                ("pps_allowance_exceeded", 20),
                ("conntrack_allowance_exceeded", 0),
                ("page_alloc_fail", 0),
                ("xdp_drop", 7),
            ]
        );
    }

    #[test]
    fn drivers_that_count_otherwise_are_understood() {
        type Pairs = &'static [(&'static str, u64)];
        let cases: [(&str, Pairs, Pairs); 7] = [
            (
                "veth",
                &[("rx_queue_0_xdp_drops", 2), ("rx_queue_1_xdp_drops", 3), ("rx_queue_0_drops", 1)],
                &[("xdp_drops", 5), ("drops", 1)],
            ),
            ("virtio_net", &[("rx_queue_0_drops", 2), ("rx_queue_0_xdp_drops", 2)], &[("drops", 2)]),
            ("virtio_net", &[("rx0_drops", 2), ("rx1_drops", 1), ("tx0_timeouts", 9)], &[("drops", 3)]),
            (
                "igb",
                &[("rx_no_buffer_count", 4), ("rx_queue_0_drops", 2), ("rx_queue_0_packets", 9)],
                &[("rx_no_buffer_count", 4), ("drops", 2)],
            ),
            ("ixgbe", &[("rx_no_dma_resources", 4), ("rx_missed_errors", 4)], &[("rx_no_dma_resources", 4)]),
            (
                "i40e",
                &[("port.rx_dropped", 4), ("rx_dropped", 9), ("veb.rx_discards", 9)],
                &[("port.rx_dropped", 4)],
            ),
            (
                "mlx5_core",
                &[("rx_xdp_drop", 4), ("rx0_xdp_drop", 4), ("rx_out_of_buffer", 1)],
                &[("rx_out_of_buffer", 1), ("rx_xdp_drop", 4)],
            ),
        ];
        for (driver, theirs, expected) in cases {
            assert_eq!(named(&select(driver, &recorded(theirs), &[])), expected, "{driver}");
        }
    }

    #[test]
    fn an_unknown_driver_has_the_kernels_counters() {
        let theirs = recorded(&[("rx_queue_0_drops", 2)]);
        assert_eq!(named(&select("r8169", &theirs, &[("rx_missed_errors", 3)])), [("rx_missed_errors", 3)]);
    }

    #[test]
    fn what_the_program_dropped_is_no_silent_loss() {
        let counters = select("ena", &ena(), &[]);
        let silent = |explained| named(&counters.silent(explained));
        let allowances = [("bw_in_allowance_exceeded", 10), ("pps_allowance_exceeded", 20)];
        assert_eq!(silent(7), allowances);
        assert_eq!(silent(1000), allowances);
        assert_eq!(silent(5)[2], ("xdp_drop", 2));
        // Two counters of that kind share the explained frames.
        let veth = recorded(&[("rx_queue_0_xdp_drops", 6), ("rx_queue_0_drops", 6)]);
        let silent = named(&select("veth", &veth, &[]).silent(10));
        assert_eq!(silent, [("drops", 2)]);
    }

    #[test]
    fn counting_begins_where_it_was_and_anew_after_a_reset() {
        let before = select("ena", &recorded(&[("rx_overruns", 5)]), &[]);
        let after = |count| select("ena", &recorded(&[("rx_overruns", count)]), &[]).since(&before);
        assert_eq!(named(&after(7)), [("rx_overruns", 2)]);
        assert_eq!(named(&after(3)), [("rx_overruns", 3)]);
    }
}
