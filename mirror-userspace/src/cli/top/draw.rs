//! Draws the screen, at any size of the terminal.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Sparkline};

use super::app::{App, Look};
use super::state::{Answering, Rate};
use super::table::{Table, Tone, cut, length, printable};
use super::views::{self, View, several};
use crate::cli::progress::{grouped, with_unit};

/// The use of colours. Without them, words and weight still convey what is important.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) colours: bool,
}

impl Theme {
    fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self.colours) {
            (Tone::Plain | Tone::Good, false) | (Tone::Plain, true) => style,
            (Tone::Faint, _) => style.add_modifier(Modifier::DIM),
            (Tone::Strong, _) | (Tone::Warning, false) => style.add_modifier(Modifier::BOLD),
            (Tone::Bad, false) => style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            (Tone::Good, true) => style.fg(Color::Green),
            (Tone::Warning, true) => style.fg(Color::Yellow),
            (Tone::Bad, true) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    fn span<'s>(self, text: impl Into<std::borrow::Cow<'s, str>>, tone: Tone) -> Span<'s> {
        Span::styled(text, self.style(tone))
    }
}

/// The number of columns before a graph.
const LEGEND: u16 = 24;
/// The maximum number of alerts shown.
const ALERTS: usize = 4;

const HELP: &[(&str, &str)] = &[
    ("1-6  Tab  ← →", "choose the view"),
    ("↑ ↓  PgUp PgDn  Home End", "move the mark"),
    ("s  r", "sort by the next column; reverse the order"),
    ("/", "filter flows: vni=7 address=10.1.2.3 port=443"),
    ("", "protocol=tcp application=dns, or words"),
    ("Enter", "flows of the marked VNI or host"),
    ("Esc", "clear the filter"),
    ("p", "pause or continue"),
    ("Ctrl-Z", "suspend"),
    ("q  Ctrl-C", "quit"),
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, theme: Theme, now: Instant) {
    let [title, tabs, body, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let mut screen = Screen { frame, theme };
    screen.title(title, app, now);
    screen.tabs(tabs, app.view);
    screen.body(body, app);
    screen.footer(footer, app);
    if app.help {
        screen.help(body);
    }
}

struct Screen<'s, 'f> {
    frame: &'s mut Frame<'f>,
    theme: Theme,
}

impl Screen<'_, '_> {
    fn line(&mut self, area: Rect, spans: Vec<Span<'_>>) {
        self.frame.render_widget(Line::from(spans), area);
    }

    fn text(&mut self, area: Rect, text: &str, tone: Tone) {
        let span = self.theme.span(text, tone);
        self.line(area, vec![span]);
    }

    /// Draws the title line: the server, and whether it answers.
    fn title(&mut self, area: Rect, app: &App, now: Instant) {
        let summary = &app.state.summary;
        let mut name = "mirror-xdp top".to_owned();
        let said = match app.answering(now) {
            Answering::Waiting => (format!("asks {}", app.server), Tone::Faint),
            Answering::No(silent, failure) => {
                let why = failure.map(|failure| format!(": {failure}")).unwrap_or_default();
                let since = views::age(silent.as_secs());
                (format!("no answer from {} since {since}{why}", app.server), Tone::Bad)
            }
            Answering::Yes => {
                name = printable(format!("mirror-xdp {}", summary.version));
                let running = views::age(summary.seconds as u64);
                (format!("{}, has captured for {running}", app.server), Tone::Plain)
            }
        };
        let mut spans = vec![self.theme.span(name, Tone::Strong), Span::raw("  ")];
        if app.paused {
            spans.push(self.theme.span("PAUSED", Tone::Warning));
            spans.push(Span::raw("  "));
        }
        spans.push(self.theme.span(said.0, said.1));
        self.line(area, spans);
    }

    fn tabs(&mut self, area: Rect, view: View) {
        let names: u16 = View::ALL.iter().map(|view| length(view.name()) + 5).sum();
        let mut spans = Vec::new();
        for (index, one) in View::ALL.into_iter().enumerate() {
            let name = if area.width >= names || one == view { one.name() } else { "" };
            let text = format!(" {} {name}", index + 1);
            let text = format!("{} ", text.trim_end());
            let chosen = Style::new().add_modifier(Modifier::REVERSED);
            spans.push(if one == view { Span::styled(text, chosen) } else { Span::raw(text) });
            spans.push(Span::raw(" "));
        }
        self.line(area, spans);
    }

    fn body(&mut self, area: Rect, app: &mut App) {
        if !app.state.is_known() {
            self.text(area, "Waiting for the first answer of the appliance.", Tone::Faint);
            return;
        }
        let table = app.table();
        let area = if app.view == View::Overview { self.overview(area, app) } else { area };
        let (area, failure) = match (&app.state.rows_failure, app.view) {
            (None, _) | (_, View::Overview | View::Workers) => (area, None),
            (Some(failure), _) => {
                let [above, below] =
                    Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
                (below, Some((above, format!("no new rows: {failure}"))))
            }
        };
        if let Some((area, said)) = failure {
            self.text(area, &said, Tone::Warning);
        }
        let marked = app.view != View::Overview || !table.rows.is_empty();
        app.page = self.table(area, &table, marked.then_some(app.look()));
    }

    /// Draws the part above the losses; returns the remaining area.
    fn overview(&mut self, area: Rect, app: &App) -> Rect {
        let state = &app.state;
        let graph = match area.height {
            0..14 => 1,
            14..20 => 2,
            20..40 => 3,
            _ => 6,
        };
        let interfaces = views::interfaces(state);
        let alerts = state.summary.alerts.iter().take(ALERTS).count() as u16;
        let room = (area.height / 3).max(2);
        let spacious = u16::from(area.height >= 14);
        let [packets, bits, facts, protocols, warnings, _, cards, _, rest] = Layout::vertical([
            Constraint::Length(graph),
            Constraint::Length(graph),
            Constraint::Length(1),
            Constraint::Length(spacious),
            Constraint::Length(alerts),
            Constraint::Length(spacious),
            Constraint::Length((interfaces.rows.len() as u16).saturating_add(1).min(room)),
            Constraint::Length(spacious),
            Constraint::Fill(1),
        ])
        .areas(area);
        let rate = state.rate();
        self.graph(packets, app, "packets/s", "", rate, |rate| rate.packets);
        self.graph(bits, app, "captured", "bit/s", rate, |rate| rate.bits);
        self.facts(facts, app);
        self.protocols(protocols, app);
        for (alert, row) in state.summary.alerts.iter().zip(warnings.rows()) {
            let tone = if alert.severity == "critical" { Tone::Bad } else { Tone::Warning };
            self.text(row, &printable(format!("{}: {}", alert.severity, alert.text)), tone);
        }
        self.table(cards, &interfaces, None);
        rest
    }

    fn graph(
        &mut self,
        area: Rect,
        app: &App,
        name: &str,
        unit: &str,
        now: Option<Rate>,
        of: fn(Rate) -> f64,
    ) {
        let [legend, chart] =
            Layout::horizontal([Constraint::Length(LEGEND), Constraint::Fill(1)]).areas(area);
        let points: Vec<Option<f64>> = app
            .state
            .graph
            .iter()
            .skip(app.state.graph.len().saturating_sub(usize::from(chart.width)))
            .map(|rate| rate.map(of))
            .collect();
        let most = points.iter().flatten().fold(0.0, |most: f64, &point| most.max(point));
        let value = now.map_or_else(|| "–".to_owned(), |rate| with_unit(of(rate), unit));
        let texts =
            [format!("{name:<10}{value:>12}"), format!("{:<10}{:>12}", "at most", with_unit(most, unit))];
        for ((text, row), tone) in texts.iter().zip(legend.rows()).zip([Tone::Strong, Tone::Faint]) {
            self.text(row, text, tone);
        }
        // The widget multiplies, so numbers are kept small.
        let scaled = points.iter().map(|point| point.map(|point| (point / most.max(1.0) * 1000.0) as u64));
        let style = self.theme.style(Tone::Good);
        let sparkline = Sparkline::default().data(scaled.collect::<Vec<_>>()).max(1000).style(style);
        self.frame.render_widget(sparkline.absent_value_symbol("·"), chart);
    }

    fn facts(&mut self, area: Rect, app: &App) {
        let summary = &app.state.summary;
        let flows = super::answer::sum(summary.workers.iter().map(|worker| worker.flows_active));
        let shunted = super::answer::sum(summary.workers.iter().map(|worker| worker.flows_shunted));
        let records = app.state.records_rate();
        let records = records.map_or_else(|| "–".to_owned(), |rate| with_unit(rate, "records/s"));
        let text = format!(
            "{}, {} of them shunted   {records}   {}",
            several(flows, "flow"),
            grouped(shunted),
            several(summary.vnis.total, "VNI")
        );
        self.text(area, &text, Tone::Plain);
    }

    /// Draws the shares of transport protocols in the traffic of the last seconds.
    fn protocols(&mut self, area: Rect, app: &App) {
        const NAMES: [&str; 4] = ["tcp", "udp", "icmp", "other"];
        let rates = NAMES.map(|name| app.state.protocol_rate(name).map_or(0.0, |rate| rate.bits));
        let all: f64 = rates.iter().sum();
        let share = |rate: f64| if all > 0.0 { rate / all * 100.0 } else { 0.0 };
        let shares = NAMES.iter().zip(rates).map(|(name, rate)| format!("{name} {:.0} %", share(rate)));
        self.text(area, &shares.collect::<Vec<_>>().join("   "), Tone::Plain);
    }

    /// Draws a table, with its title if it has one and a mark if `look` is given; returns the number of rows
    /// that fit.
    fn table(&mut self, area: Rect, table: &Table, look: Option<&mut Look>) -> usize {
        let mut lines = area.rows().collect::<Vec<_>>().into_iter();
        if !table.title.is_empty()
            && let Some(line) = lines.next()
        {
            self.text(line, &table.title, Tone::Strong);
        }
        if table.rows.is_empty() {
            if let Some(line) = lines.next() {
                self.text(line, table.empty, Tone::Good);
            }
            return 0;
        }
        let places = table.fit(area.width);
        if let Some(line) = lines.next() {
            let titles = places.iter().map(|place| table.padded(*place, &table.heading(place.column)));
            let titles = titles.collect::<Vec<_>>().join(" ");
            let underlined = self.theme.style(Tone::Faint).add_modifier(Modifier::UNDERLINED);
            self.line(line, vec![Span::styled(titles, underlined)]);
        }
        let room = lines.len();
        let mut mark = None;
        let mut offset = 0;
        if let Some(look) = look {
            look.selected = look.selected.min(table.rows.len() - 1);
            // Scrolls as little as possible to show the marked row.
            look.offset = look.offset.min(look.selected).max((look.selected + 1).saturating_sub(room));
            look.offset = look.offset.min(table.rows.len().saturating_sub(room));
            (mark, offset) = (Some(look.selected), look.offset);
        }
        for ((index, row), line) in table.rows.iter().enumerate().skip(offset).zip(lines) {
            let mut spans = Vec::with_capacity(places.len() * 2);
            for place in &places {
                if !spans.is_empty() {
                    spans.push(Span::raw(" "));
                }
                if let Some(cell) = row.get(place.column) {
                    spans.push(self.theme.span(table.padded(*place, &cell.text), cell.tone));
                }
            }
            self.line(line, spans);
            if mark == Some(index) {
                let marked = Style::new().add_modifier(Modifier::REVERSED);
                self.frame.buffer_mut().set_style(line, marked);
            }
        }
        room
    }

    /// Draws the footer: the keys, or the typed text.
    fn footer(&mut self, area: Rect, app: &App) {
        let Some(prompt) = &app.prompt else {
            let long = "1-6 view  ↑↓ move  s sort  / filter  Enter open  p pause  ? help  q quit";
            let short = "? help  q quit  / filter";
            self.text(area, if area.width >= length(long) { long } else { short }, Tone::Faint);
            return;
        };
        let mistake = prompt.mistake.as_ref().map(|mistake| format!("  {mistake}")).unwrap_or_default();
        // The end of the text is what the user types.
        let room = area.width.saturating_sub(length(&mistake)).saturating_sub(2);
        let typed = printable(prompt.typed.clone());
        let hidden = typed.chars().count().saturating_sub(usize::from(room));
        let typed: String = typed.chars().skip(hidden).collect();
        let spans = vec![
            self.theme.span("/", Tone::Strong),
            self.theme.span(typed, Tone::Plain),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
            self.theme.span(mistake, Tone::Bad),
        ];
        self.line(area, spans);
    }

    fn help(&mut self, body: Rect) {
        let area = body.centered(Constraint::Length(78), Constraint::Length(HELP.len() as u16 + 2));
        self.frame.render_widget(Clear, area);
        let mut lines = area.rows();
        if let Some(line) = lines.next() {
            self.text(line, "Keys", Tone::Strong);
        }
        for ((keys, what), line) in HELP.iter().zip(lines) {
            self.text(line, &cut(&format!("  {keys:<26}{what}"), line.width), Tone::Plain);
        }
    }
}
