//! The tables of each view.

use std::net::IpAddr;

use super::answer::{Flow, Interface, Loss, Quantiles, Service, Vni, Worker};
use super::query::Filter;
use super::state::{Rate, State};
use super::table::{Cell, Column, Sort, Table, Tone};
use crate::cli::progress::{grouped, with_unit};

/// The views, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    #[default]
    Overview,
    Vnis,
    Talkers,
    Flows,
    Services,
    Workers,
}

impl View {
    pub(super) const ALL: [Self; 6] =
        [Self::Overview, Self::Vnis, Self::Talkers, Self::Flows, Self::Services, Self::Workers];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Vnis => "VNIs",
            Self::Talkers => "Talkers",
            Self::Flows => "Flows",
            Self::Services => "Services",
            Self::Workers => "Workers",
        }
    }

    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Overview => LOSSES,
            Self::Vnis => VNIS,
            Self::Talkers => TALKERS,
            Self::Flows => FLOWS,
            Self::Services => SERVICES,
            Self::Workers => WORKERS,
        }
    }

    /// Returns the default order of its rows.
    pub(super) const fn sort(self) -> Option<Sort> {
        let column = match self {
            // In the order in which a frame passes the stages.
            Self::Overview => return None,
            Self::Workers => 0,
            Self::Vnis => 2,
            Self::Talkers => 3,
            Self::Flows => 6,
            Self::Services => 4,
        };
        Some(Sort { column, reversed: false })
    }

    /// Builds its table.
    pub(super) fn table(self, state: &State, filter: &Filter) -> Table {
        match self {
            Self::Overview => losses(state),
            Self::Vnis => vnis(state),
            Self::Talkers => talkers(state, filter),
            Self::Flows => flows(state, filter),
            Self::Services => services(state),
            Self::Workers => workers(state),
        }
    }
}

/// Returns the order in which to request flows: the appliance's equivalent of the column that the rows are
/// sorted by, or bytes if there is none.
pub(super) fn order_of_flows(sort: Option<Sort>) -> &'static str {
    match sort.and_then(|sort| FLOWS.get(sort.column)).map(|column| column.title) {
        Some("packets") => "packets",
        Some("last packet") => "recent",
        _ => "bytes",
    }
}

/// The text of an unknown value.
const UNKNOWN: &str = "–";

fn unknown() -> Cell {
    Cell::number(UNKNOWN, -1.0).toned(Tone::Faint)
}

fn count(count: u64) -> Cell {
    let cell = Cell::number(grouped(count), count as f64);
    if count == 0 { cell.toned(Tone::Faint) } else { cell }
}

fn bytes(bytes: u64) -> Cell {
    Cell::number(with_unit(bytes as f64, "B"), bytes as f64)
}

/// Formats a count that should be 0.
fn bad(number: u64) -> Cell {
    if number == 0 { count(0) } else { count(number).toned(Tone::Bad) }
}

fn rate(rate: Option<f64>) -> Cell {
    match rate {
        Some(rate) if rate < 9.95 && rate > 0.0 => Cell::number(format!("{rate:.1}"), rate),
        Some(rate) => Cell::number(with_unit(rate, "").trim_end().to_owned(), rate),
        None => unknown(),
    }
}

fn packets(of: Option<Rate>) -> Cell {
    rate(of.map(|rate| rate.packets))
}

fn bits(of: Option<Rate>) -> Cell {
    bits_of(of.map(|rate| rate.bits))
}

fn bits_of(bits: Option<f64>) -> Cell {
    bits.map_or_else(unknown, |bits| Cell::number(with_unit(bits, "bit/s"), bits))
}

fn vni(vni: Option<u32>) -> Cell {
    match vni {
        Some(vni) => Cell::number(vni.to_string(), f64::from(vni)),
        None => unknown(),
    }
}

/// Formats a count with a noun.
pub(super) fn several(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Formats a duration in its largest non-zero unit.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn ago(seconds: u64) -> Cell {
    Cell::number(age(seconds), seconds as f64)
}

/// Formats an address in its shortest form.
fn short(address: &str) -> String {
    address.parse::<IpAddr>().map_or_else(|_| address.to_owned(), |address| address.to_string())
}

/// Formats an address, and a port if there is one.
fn endpoint(address: &str, port: Option<u64>) -> Cell {
    let address = short(address);
    match port {
        Some(port) if address.contains(':') => Cell::text(format!("[{address}]:{port}")),
        Some(port) => Cell::text(format!("{address}:{port}")),
        None => Cell::text(address),
    }
}

const INTERFACES: &[Column] = &[
    Column::text("interface", 0, 8),
    Column::text("mode", 1, 9),
    Column::number("seen/s", 0),
    Column::number("received", 2),
    Column::number("seen", 3),
    Column::number("captured", 4),
    Column::text("link", 5, 4),
];

/// Builds the table of interfaces, with the mode of each.
pub(super) fn interfaces(state: &State) -> Table {
    let row = |interface: &Interface| {
        let rate = state.interface_rate(&interface.name);
        let mode = Cell::text(interface.mode_in_force());
        let link =
            if interface.link.running { Cell::text("up") } else { Cell::text("down").toned(Tone::Bad) };
        vec![
            Cell::text(&interface.name),
            if interface.mode == "native" { mode } else { mode.toned(Tone::Warning) },
            packets(rate),
            bits(rate),
            count(interface.program.seen),
            count(interface.program.redirected),
            link,
        ]
    };
    let rows = state.summary.interfaces.iter().map(row).collect();
    Table { columns: INTERFACES, rows, empty: "no interfaces", ..Table::default() }
}

const LOSSES: &[Column] = &[
    Column::text("stage", 0, 7),
    Column::text("place", 2, 8),
    Column::text("reason", 1, 10),
    Column::number("count", 0),
    Column::number("per second", 1),
];

/// Builds the table of losses, stage by stage, with the notices below them; a loss that grows stands out.
fn losses(state: &State) -> Table {
    let row = |(loss, is_lost): (&Loss, bool)| {
        let growth = state.loss_rate(&loss.stage, &loss.place, &loss.reason);
        let tone = match growth {
            _ if !is_lost => Tone::Plain,
            Some(growth) if growth > 0.0 => Tone::Bad,
            _ => Tone::Warning,
        };
        let texts = [&loss.stage, &loss.place, &loss.reason].map(|text| Cell::text(text).toned(tone));
        let numbers = [count(loss.count), rate(growth)].map(|cell| cell.toned(tone));
        texts.into_iter().chain(numbers).collect()
    };
    let summary = &state.summary;
    let losses = summary.losses.iter().map(|loss| (loss, true));
    let rows = losses.chain(summary.notices.iter().map(|notice| (notice, false))).map(row).collect();
    Table { title: "loss by stage".to_owned(), columns: LOSSES, rows, empty: "nothing lost", sort: None }
}

const VNIS: &[Column] = &[
    Column::number("VNI", 0),
    Column::text("interface", 4, 8),
    Column::number("bit/s", 0),
    Column::number("packets/s", 1),
    Column::number("packets", 2),
    Column::number("bytes", 3),
    Column::number("dropped by rule", 6),
    Column::number("undelivered", 5),
    Column::number("idle", 4),
];

fn vnis(state: &State) -> Table {
    let row = |one: &Vni| {
        let rate = state.vni_rate(&one.interface, one.vni);
        vec![
            if one.vni.is_some() { vni(one.vni) } else { Cell::number("others", -1.0) },
            Cell::text(&one.interface),
            bits(rate),
            packets(rate),
            count(one.packets),
            bytes(one.bytes),
            count(one.dropped()),
            bad(one.lost()),
            ago(one.idle_seconds),
        ]
    };
    let rows: Vec<_> = state.vnis.vnis.iter().map(row).collect();
    let title = several(state.vnis.total, "VNI") + &shown(rows.len(), state.vnis.total);
    Table { title, columns: VNIS, rows, empty: "no mirrored packet yet", sort: None }
}

/// Returns a note on how many are shown, if not all are.
fn shown(rows: usize, of: u64) -> String {
    if (rows as u64) < of {
        format!(", the {} with the most packets", grouped(rows as u64))
    } else {
        String::new()
    }
}

const TALKERS: &[Column] = &[
    Column::text("host", 0, 15),
    Column::number("VNI", 2),
    Column::number("bit/s", 0),
    Column::number("bytes", 1),
    Column::number("sent", 3),
    Column::number("received", 3),
    Column::number("packets", 4),
    Column::number("flows", 5),
];

fn talkers(state: &State, filter: &Filter) -> Table {
    let flows: Vec<_> = state.flows.iter().filter(|flow| filter.matches(&texts(flow))).collect();
    let row = |((network, address), talker): ((Option<u32>, &str), super::state::Talker)| {
        vec![
            Cell::text(short(address)),
            vni(network),
            bits_of(talker.bits),
            bytes(talker.sent.saturating_add(talker.received)),
            bytes(talker.sent),
            bytes(talker.received),
            count(talker.packets),
            count(talker.flows),
        ]
    };
    let mut talkers: Vec<_> = state.talkers(flows.iter().copied()).into_iter().collect();
    // Sorted by key, so that equal rows keep their place from one reply to the next.
    talkers.sort_by_key(|(key, _)| *key);
    let rows: Vec<_> = talkers.into_iter().map(row).collect();
    let title = format!(
        "{} in the {}{}",
        several(rows.len() as u64, "host"),
        several(flows.len() as u64, "largest flow"),
        those(filter)
    );
    Table { title, columns: TALKERS, rows, empty: "no flow is active", sort: None }
}

const FLOWS: &[Column] = &[
    Column::text("client", 0, 15),
    Column::text("server", 0, 15),
    Column::text("proto", 5, 5),
    Column::text("app", 3, 4),
    Column::number("VNI", 2),
    Column::number("bit/s", 1),
    Column::number("bytes", 0),
    Column::number("packets", 6),
    Column::number("age", 7),
    Column::text("last packet", 8, 8).turned(),
    Column::text("state", 9, 5),
];

/// Returns the texts that words are searched for in.
fn texts(flow: &Flow) -> [&str; 5] {
    let application = flow.app_proto.as_deref().unwrap_or_default();
    [&flow.src_ip, &flow.dest_ip, &flow.proto, &flow.flow.state, application]
}

fn flows(state: &State, filter: &Filter) -> Table {
    let row = |flow: &Flow| {
        vec![
            endpoint(&flow.src_ip, flow.src_port),
            endpoint(&flow.dest_ip, flow.dest_port),
            Cell::text(flow.proto.to_lowercase()),
            Cell::text(flow.app_proto.as_deref().unwrap_or(UNKNOWN)),
            vni(flow.vni()),
            bits(state.flow_rate(flow.flow_id)),
            bytes(flow.bytes()),
            count(flow.packets()),
            ago(flow.flow.age),
            // 2026-11-25T08:55:17.123456+0000: the time of the day.
            Cell::text(flow.flow.end.get(11..19).unwrap_or(UNKNOWN)),
            Cell::text(&flow.flow.state),
        ]
    };
    let rows: Vec<_> = state.flows.iter().filter(|flow| filter.matches(&texts(flow))).map(row).collect();
    let active = super::answer::sum(state.summary.workers.iter().map(|worker| worker.flows_active));
    let rows_shown = rows.len() as u64;
    // The counter is slightly older or newer than the flows.
    let some = if rows_shown >= active { String::new() } else { format!("{} of ", grouped(rows_shown)) };
    let title = format!("{some}{}{}", several(active.max(rows_shown), "active flow"), those(filter));
    Table { title, columns: FLOWS, rows, empty: "no such flow is active", sort: None }
}

/// Returns the filter as a suffix of a title, if there is one.
fn those(filter: &Filter) -> String {
    if filter.is_empty() { String::new() } else { super::table::printable(format!(": {}", filter.text)) }
}

const SERVICES: &[Column] = &[
    Column::text("service", 0, 15),
    Column::text("app", 3, 4),
    Column::number("VNI", 4),
    Column::number("requests/s", 2),
    Column::number("requests", 3),
    Column::number("errors", 2),
    Column::number("p50 ms", 1),
    Column::number("p95 ms", 0),
    Column::number("p99 ms", 1),
    Column::number("connections", 6),
    Column::number("sent again", 5),
];

fn services(state: &State) -> Table {
    let rows = state.services.iter().map(|service| service_row(state, service)).collect();
    let title = "services, latencies of the last minute".to_owned();
    Table { title, columns: SERVICES, rows, empty: "no request or connection yet", sort: None }
}

fn service_row(state: &State, service: &Service) -> Vec<Cell> {
    let name = match &service.dest_ip {
        Some(address) => endpoint(address, service.dest_port),
        None => Cell::text("all others"),
    };
    let measured = service.measured();
    let latency = measured.and_then(|metrics| metrics.latency_ms);
    let quantile = |of: fn(Quantiles) -> f64| match latency.map(of) {
        Some(ms) if ms < 9.995 => Cell::number(format!("{ms:.2}"), ms),
        Some(ms) => Cell::number(format!("{ms:.0}"), ms),
        None => unknown(),
    };
    let percent = |share: f64| {
        let cell = Cell::number(format!("{:.1} %", share * 100.0), share);
        if share >= 0.01 { cell.toned(Tone::Warning) } else { cell }
    };
    let total = &service.total;
    let errors = match total.requests {
        0 => unknown(),
        requests => percent(total.errors as f64 / requests as f64),
    };
    vec![
        name,
        Cell::text(service.app_proto.as_deref().unwrap_or(UNKNOWN)),
        vni(service.vni),
        rate(state.service_rate(service)),
        count(total.requests),
        errors,
        quantile(|latency| latency.p50),
        quantile(|latency| latency.p95),
        quantile(|latency| latency.p99),
        count(total.connections),
        measured.and_then(|metrics| metrics.retransmission_rate).map_or_else(unknown, percent),
    ]
}

const WORKERS: &[Column] = &[
    Column::number("worker", 0).turned(),
    Column::text("queue", 3, 8),
    Column::text("load", 2, 10),
    Column::number("of a core", 0),
    Column::number("packets/s", 1),
    Column::number("bit/s", 1),
    Column::number("flows", 2),
    Column::number("shunted", 5),
    Column::number("refused", 6),
    Column::number("records lost", 4),
    Column::text("state", 3, 6),
];

/// The number of characters of a load's bar.
const BAR: usize = 10;

/// Formats a bar of ten characters, in eighths.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if let Some(part) = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'].get(eighths % 8)
        && !eighths.is_multiple_of(8)
    {
        bar.push(*part);
    }
    bar
}

fn workers(state: &State) -> Table {
    let row = |worker: &Worker| {
        let rate = state.worker_rate(worker.worker);
        let (came, load) = (rate.map(|(came, _)| came), rate.map(|(_, load)| load));
        let tone = match load {
            Some(load) if load >= 0.9 => Tone::Bad,
            Some(load) if load >= 0.7 => Tone::Warning,
            _ => Tone::Good,
        };
        let moving = if worker.moving {
            Cell::text("moving")
        } else {
            Cell::text(format!("still for {}", age(worker.moved_ms_ago / 1000))).toned(Tone::Bad)
        };
        let share = load.map_or_else(unknown, |load| Cell::number(format!("{:.0} %", load * 100.0), load));
        vec![
            Cell::number(worker.worker.to_string(), worker.worker as f64),
            Cell::text(format!("{} {}", worker.interface, worker.queue)),
            Cell::text(bar(load.unwrap_or_default())).toned(tone),
            share.toned(tone),
            packets(came),
            bits(came),
            count(worker.flows_active),
            count(worker.flows_shunted),
            count(worker.refused()),
            bad(worker.records_lost),
            moving,
        ]
    };
    let rows: Vec<_> = state.summary.workers.iter().map(row).collect();
    let title = several(rows.len() as u64, "worker");
    Table { title, columns: WORKERS, rows, empty: "no workers", sort: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_many_as_cells() {
        let mut state = State::new(std::time::Instant::now());
        super::super::tests::fill(&mut state);
        for view in View::ALL {
            let mut table = view.table(&state, &Filter::default());
            assert!(!table.rows.is_empty(), "{view:?}");
            for row in &table.rows {
                assert_eq!(row.len(), table.columns.len(), "{view:?}");
            }
            assert_eq!(view.columns().len(), table.columns.len());
            table.sort(view.sort().unwrap_or_default());
            assert!((0..table.columns.len()).any(|column| table.heading(column).contains(['▼', '▲'])));
        }
    }

    #[test]
    fn flows_are_asked_for_in_the_order_they_are_shown_in() {
        let by = |title: &str| {
            let column = FLOWS.iter().position(|column| column.title == title).unwrap();
            order_of_flows(Some(Sort { column, reversed: false }))
        };
        assert_eq!([by("bytes"), by("packets"), by("last packet")], ["bytes", "packets", "recent"]);
        assert_eq!(order_of_flows(View::Flows.sort()), "bytes");
    }

    #[test]
    fn loads_are_bars_and_times_have_units() {
        assert_eq!([several(1, "VNI"), several(2000, "VNI")], ["1 VNI", "2,000 VNIs"]);
        assert_eq!([bar(0.0), bar(0.55), bar(7.0)], ["", "█████▌", "██████████"]);
        assert_eq!([age(5), age(125), age(7_260), age(400_000)], ["5 s", "2 min", "2 h 1 min", "4 d"]);
    }
}
