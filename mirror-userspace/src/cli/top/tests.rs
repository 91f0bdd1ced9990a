//! Tests that draw the screen from recorded answers of a running capture, at every size.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::style::{Color, Modifier};
use serde_json::Value;

use super::answer::Summary;
use super::app::App;
use super::client::{Failure, Rows, Update};
use super::draw::{Theme, draw};
use super::state::State;
use super::views::View;

/// Two answers to `/api/v1/summary`, two seconds apart, of an appliance under traffic.
const RECORDED: [&str; 2] =
    [include_str!("recorded/summary-1.json"), include_str!("recorded/summary-2.json")];

const SECOND: Duration = Duration::from_secs(1);

fn answered(at: Instant, json: &str) -> Update {
    let summary: Summary = serde_json::from_str(json).unwrap();
    Update { at, summary: Some(Ok(Box::new(summary))), rows: None }
}

/// Fills the state with the recorded answers.
pub(super) fn fill(state: &mut State) {
    let start = Instant::now();
    for (second, json) in (0..).zip(RECORDED) {
        state.apply(answered(start + 2 * second * SECOND, json));
    }
}

fn app() -> App {
    let mut app = App::new("127.0.0.1:9470".to_owned(), SECOND, Instant::now());
    fill(&mut app.state);
    app
}

/// Returns the content of a screen of this size.
fn drawn(app: &mut App, now: Instant, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app, Theme { colours: true }, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width.max(1)));
    rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned())
        .collect()
}

fn show(app: &mut App, view: char, width: u16, height: u16) -> String {
    app.key(KeyEvent::from(KeyCode::Char(view)));
    drawn(app, Instant::now(), width, height).join("\n")
}

#[test]
fn each_view_shows_what_was_answered() {
    let mut app = app();
    let overview = show(&mut app, '1', 80, 24);
    for text in ["has captured for 12 s", "capture0", "native, copy", "hand_over_full", "41 VNIs", "q quit"] {
        assert!(overview.contains(text), "{text}: {overview}");
    }
    for (view, texts) in [
        ('2', ["41 VNIs", "VNI", "undelivered"]),
        ('3', ["hosts in the 8 largest flows", "10.20.0.10", "sent"]),
        ('4', ["active flows", "10.20.0.20:80", "http"]),
        ('5', ["10.20.0.2:53", "p95 ms", "dns"]),
        ('6', ["2 workers", "of a core", "moving"]),
    ] {
        let screen = show(&mut app, view, 110, 24);
        for text in texts {
            assert!(screen.contains(text), "{text}: {screen}");
        }
    }
}

#[test]
fn a_small_and_a_large_screen_show_what_matters_most() {
    for (width, height) in [(40, 12), (200, 60)] {
        let mut app = app();
        for (view, text) in [
            ('1', "hand_over_full"),
            ('2', "136"),
            ('3', "10.20.0.10"),
            ('4', "10.20.0.20:80"),
            ('5', "10.20.0.2:53"),
            ('6', "of a core"),
        ] {
            let screen = show(&mut app, view, width, height);
            assert!(screen.contains(text), "{text} at {width}x{height}: {screen}");
            assert!(screen.contains("q quit"), "{screen}");
        }
    }
}

#[test]
fn an_appliance_that_is_away_is_told_beside_what_was_known() {
    let mut app = app();
    let now = Instant::now();
    let refused = Failure::new("connection refused");
    app.apply(Update { at: now, summary: Some(Err(refused)), rows: None });
    let screen = drawn(&mut app, now + 14 * SECOND, 80, 24);
    assert!(screen[0].contains("no answer from 127.0.0.1:9470 since 1"), "{}", screen[0]);
    assert!(screen[0].ends_with("s: connection refused"), "{}", screen[0]);
    assert!(screen.join("\n").contains("capture0"));
}

#[test]
fn rows_that_cannot_be_had_are_told_beside_those_that_were() {
    let mut app = app();
    let late = Failure::new("a worker does not answer in time");
    app.apply(Update { at: Instant::now(), summary: None, rows: Some(Err(late)) });
    assert!(show(&mut app, '4', 80, 24).contains("no new rows: a worker does not answer in time"));
    assert!(!show(&mut app, '1', 80, 24).contains("no new rows"));
}

#[test]
fn a_loss_stands_out_while_it_grows() {
    let style = |app: &mut App, colours| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, app, Theme { colours }, Instant::now())).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = buffer.content().chunks(80).find(|row| {
            row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().contains("hand_over_full")
        });
        row.unwrap()[0].style()
    };
    let mut app = app();
    assert_eq!(style(&mut app, true).fg, Some(Color::Red));
    let plain = style(&mut app, false);
    assert_eq!(plain.fg, Some(Color::Reset));
    assert!(plain.add_modifier.contains(Modifier::UNDERLINED));
    for seconds in 1..=4 {
        let mut summary: Summary = serde_json::from_str(RECORDED[1]).unwrap();
        summary.seconds += f64::from(seconds);
        app.apply(Update { at: Instant::now(), summary: Some(Ok(Box::new(summary))), rows: None });
    }
    assert_eq!(style(&mut app, true).fg, Some(Color::Yellow));
}

#[test]
fn scripts_get_everything_in_one_object() {
    let mut state = State::new(Instant::now());
    fill(&mut state);
    let json = super::snapshot::json("127.0.0.1:9470", &state);
    assert_eq!(json["losses"][0]["reason"], "hand_over_full");
    assert!(json["losses"][0]["per_second"].as_f64().unwrap() > 1000.0);
    assert!(json["rate"]["packets_per_second"].as_f64().unwrap() > 1000.0);
    for list in ["interfaces", "vnis", "talkers", "flows", "services", "workers"] {
        assert!(!json[list].as_array().unwrap().is_empty(), "{list}");
    }
    let text = super::snapshot::text("127.0.0.1:9470", &state);
    for view in ["loss by stage", "41 VNIs", "hosts in the", "active flows", "services", "2 workers"] {
        assert!(text.contains(view), "{view}: {text}");
    }
}

/// A value that an appliance would not send, for use in place of one that it sends.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::from(u64::MAX)),
        Just(Value::from(0)),
        any::<u64>().prop_map(Value::from),
        Just(Value::from("")),
        Just(Value::from("宽字符😀\u{301}\u{202e}\x1b[2J\n")),
        ".{0,60}".prop_map(Value::from),
        Just(Value::Array(Vec::new())),
        Just(Value::Null),
    ]
}

/// Replaces the n-th value of its kind by `odd`; a value of another kind would be refused as a whole.
fn replace(value: &mut Value, place: &mut usize, odd: &Value) {
    let same = std::mem::discriminant(value) == std::mem::discriminant(odd);
    if same && !value.is_object() {
        if *place == 0 {
            *value = odd.clone();
        }
        *place = place.wrapping_sub(1);
    }
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, place, odd)),
        Value::Object(values) => values.values_mut().for_each(|value| replace(value, place, odd)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn it_is_drawn_at_every_size_whatever_is_answered(
        width in 1..240_u16,
        height in 1..70_u16,
        mutations in prop::collection::vec((0..400_usize, odd()), 0..12),
        keys in "[1-6sr/?pgGjkq \t\n]{0,12}",
    ) {
        let mut app = App::new("host:9470".to_owned(), SECOND, Instant::now());
        let start = Instant::now();
        drawn(&mut app, start, width, height);
        for (second, json) in (1..).zip(RECORDED) {
            let mut answer: Value = serde_json::from_str(json).unwrap();
            for (place, odd) in &mutations {
                replace(&mut answer, &mut { *place }, odd);
            }
            let at = start + second * SECOND;
            let summary = serde_json::from_value::<Summary>(answer.clone());
            let summary = Some(summary.map(Box::new).map_err(Failure::new));
            let flows = serde_json::from_value(answer["flows"].clone()).unwrap_or_default();
            app.apply(Update { at, summary, rows: Some(Ok(Rows::Flows(flows))) });
            for character in keys.chars() {
                let code = match character {
                    '\t' => KeyCode::Tab,
                    '\n' => KeyCode::Enter,
                    'j' => KeyCode::PageDown,
                    character => KeyCode::Char(character),
                };
                app.key(KeyEvent::from(code));
                drawn(&mut app, at, width, height);
            }
        }
        for view in View::ALL {
            app.view = view;
            app.help = false;
            drawn(&mut app, start, width, height);
        }
        super::snapshot::text("host:9470", &app.state);
        super::snapshot::json("host:9470", &app.state);
    }
}
