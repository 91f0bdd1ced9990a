//! The reaction to keys: the view, its order and its filter.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::client::{MOST_FLOWS, Update, Wanted};
use super::query::Filter;
use super::state::{Answering, State};
use super::table::{Sort, Table};
use super::views::{View, order_of_flows};

/// An action beyond a change of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Quit,
    /// Suspends the process, as job control of the shell does.
    Suspend,
}

/// The input behind `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) typed: String,
    /// The error in the input.
    pub(super) mistake: Option<String>,
}

/// The order and the position of a view.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) sort: Option<Sort>,
    pub(super) selected: usize,
    /// The first row on the screen.
    pub(super) offset: usize,
}

/// The state that determines the screen.
#[derive(Debug)]
pub(super) struct App {
    /// The address of the API.
    pub(super) server: String,
    interval: Duration,
    pub(super) state: State,
    pub(super) view: View,
    looks: [Look; View::ALL.len()],
    pub(super) filter: Filter,
    pub(super) prompt: Option<Prompt>,
    pub(super) help: bool,
    pub(super) paused: bool,
    /// Number of rows that fit on the screen.
    pub(super) page: usize,
}

impl App {
    pub(super) fn new(server: String, interval: Duration, now: Instant) -> Self {
        Self {
            server,
            interval,
            state: State::new(now),
            view: View::default(),
            looks: View::ALL.map(|view| Look { sort: view.sort(), ..Look::default() }),
            filter: Filter::default(),
            prompt: None,
            help: false,
            paused: false,
            page: 1,
        }
    }

    /// Applies an update, unless the screen is paused.
    pub(super) fn apply(&mut self, update: Update) {
        if !self.paused {
            self.state.apply(update);
        }
    }

    pub(super) fn answering(&self, now: Instant) -> Answering {
        self.state.answering(now, self.interval)
    }

    pub(super) const fn look(&mut self) -> &mut Look {
        &mut self.looks[self.view as usize]
    }

    /// Returns the rows that the view needs from the appliance.
    pub(super) fn wanted(&self) -> Wanted {
        match self.view {
            View::Overview | View::Workers => Wanted::Nothing,
            View::Vnis => Wanted::Vnis,
            View::Services => Wanted::Services,
            View::Talkers => Wanted::Flows(self.filter.path("bytes", MOST_FLOWS)),
            View::Flows => {
                let sort = self.looks[View::Flows as usize].sort;
                Wanted::Flows(self.filter.path(order_of_flows(sort), MOST_FLOWS))
            }
        }
    }

    /// Returns the view's table in its order. While the user types, the rows are filtered by the words typed
    /// so far.
    pub(super) fn table(&self) -> Table {
        let typed = self.prompt.as_ref().and_then(|prompt| Filter::parse(&prompt.typed).ok());
        let filter = typed.map_or_else(|| self.filter.clone(), |typed| self.filter.with_words_of(&typed));
        let mut table = self.view.table(&self.state, &filter);
        if let Some(sort) = self.looks[self.view as usize].sort {
            table.sort(sort);
        }
        table
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Action::Quit,
                KeyCode::Char('z') => return Action::Suspend,
                KeyCode::Char('u') => {
                    if let Some(prompt) = &mut self.prompt {
                        *prompt = Prompt::default();
                    }
                }
                _ => {}
            }
            return Action::Nothing;
        }
        if self.prompt.is_some() {
            self.type_key(key.code);
            return Action::Nothing;
        }
        if self.help {
            // Any key closes the help first.
            self.help = false;
            return if key.code == KeyCode::Char('q') { Action::Quit } else { Action::Nothing };
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => {
                let sort = self.look().sort.get_or_insert_default();
                sort.reversed = !sort.reversed;
            }
            KeyCode::Char('/') => {
                if !matches!(self.view, View::Talkers | View::Flows) {
                    self.view = View::Flows;
                }
                self.prompt = Some(Prompt { typed: self.filter.text.clone(), mistake: None });
            }
            KeyCode::Char(digit @ '1'..='6') => {
                let index = digit as usize - '1' as usize;
                self.view = View::ALL.get(index).copied().unwrap_or(self.view);
            }
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(View::ALL.len() - 1),
            KeyCode::Esc => self.filter_by(Filter::default()),
            KeyCode::Enter => self.open(),
            code => self.move_to(code),
        }
        Action::Nothing
    }

    /// Handles a key while the user types a filter.
    fn type_key(&mut self, code: KeyCode) {
        let Some(prompt) = &mut self.prompt else { return };
        match code {
            KeyCode::Char(character) => prompt.typed.push(character),
            KeyCode::Backspace => {
                prompt.typed.pop();
            }
            KeyCode::Esc => self.prompt = None,
            KeyCode::Enter => match Filter::parse(&prompt.typed) {
                Ok(filter) => {
                    self.prompt = None;
                    self.filter_by(filter);
                }
                Err(mistake) => prompt.mistake = Some(mistake),
            },
            _ => {}
        }
        if let Some(prompt) = &mut self.prompt
            && code != KeyCode::Enter
        {
            prompt.mistake = None;
        }
    }

    fn filter_by(&mut self, filter: Filter) {
        self.filter = filter;
        for view in [View::Talkers, View::Flows] {
            self.looks[view as usize].selected = 0;
        }
    }

    fn turn(&mut self, by: usize) {
        let index = (self.view as usize + by) % View::ALL.len();
        self.view = View::ALL[index];
    }

    fn sort_by_next(&mut self) {
        let columns = self.view.columns().len();
        let look = self.look();
        let column = look.sort.map_or(0, |sort| (sort.column + 1) % columns.max(1));
        *look = Look { sort: Some(Sort { column, reversed: false }), ..Look::default() };
    }

    /// Opens the flows of the selected row.
    fn open(&mut self) {
        let table = self.table();
        let selected = self.look().selected;
        let Some(cell) = table.rows.get(selected).and_then(|row| row.first()) else { return };
        let filter = match self.view {
            View::Vnis => Filter::parse(&format!("vni={}", cell.text)),
            View::Talkers => Filter::parse(&format!("{} address={}", self.filter.text, cell.text)),
            _ => return,
        };
        // The row of all other VNIs, or of an address that is filtered already, has no filter.
        if let Ok(filter) = filter {
            self.filter_by(filter);
            self.view = View::Flows;
        }
    }

    fn move_to(&mut self, code: KeyCode) {
        let last = self.table().rows.len().saturating_sub(1);
        let page = self.page.max(1);
        let look = self.look();
        let selected = look.selected.min(last);
        look.selected = match code {
            KeyCode::Up | KeyCode::Char('k') => selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => selected + 1,
            KeyCode::PageUp => selected.saturating_sub(page),
            KeyCode::PageDown => selected.saturating_add(page),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => selected,
        }
        .min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        let mut app = App::new("127.0.0.1:9470".to_owned(), Duration::from_secs(1), Instant::now());
        super::super::tests::fill(&mut app.state);
        app
    }

    fn press(app: &mut App, code: KeyCode) -> Action {
        app.key(KeyEvent::from(code))
    }

    fn type_text(app: &mut App, text: &str) {
        for character in text.chars() {
            assert_eq!(press(app, KeyCode::Char(character)), Action::Nothing);
        }
    }

    #[test]
    fn keys_choose_the_view_and_what_is_asked_for() {
        let mut app = app();
        assert_eq!((app.view, app.wanted()), (View::Overview, Wanted::Nothing));
        type_text(&mut app, "2");
        assert_eq!((app.view, app.wanted()), (View::Vnis, Wanted::Vnis));
        press(&mut app, KeyCode::Tab);
        assert_eq!(app.view, View::Talkers);
        press(&mut app, KeyCode::BackTab);
        press(&mut app, KeyCode::BackTab);
        press(&mut app, KeyCode::BackTab);
        assert_eq!(app.view, View::Workers);
        for (code, action) in [('c', Action::Quit), ('z', Action::Suspend), ('x', Action::Nothing)] {
            assert_eq!(app.key(KeyEvent::new(KeyCode::Char(code), KeyModifiers::CONTROL)), action);
        }
        type_text(&mut app, "?");
        assert!(app.help);
        assert_eq!(press(&mut app, KeyCode::Char('q')), Action::Quit);
    }

    #[test]
    fn the_filter_is_put_to_the_appliance_with_enter() {
        let mut app = app();
        type_text(&mut app, "/vni=7 q");
        assert_eq!(app.view, View::Flows);
        assert!(!app.filter.text.contains("vni"));
        press(&mut app, KeyCode::Backspace);
        type_text(&mut app, "port=x");
        press(&mut app, KeyCode::Enter);
        assert!(app.prompt.as_ref().unwrap().mistake.as_ref().unwrap().contains("65535"));
        press(&mut app, KeyCode::Backspace);
        type_text(&mut app, "53");
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.prompt, None);
        let path = "/api/v1/flows?sort=bytes&limit=1000&vni=7&port=53".to_owned();
        assert_eq!(app.wanted(), Wanted::Flows(path));
        press(&mut app, KeyCode::Esc);
        assert!(app.filter.is_empty());
    }

    #[test]
    fn words_are_looked_for_while_they_are_typed() {
        let mut app = app();
        type_text(&mut app, "4");
        let all = app.table().rows.len();
        type_text(&mut app, "/nothing like that");
        assert!(all > 0 && app.table().rows.is_empty());
        press(&mut app, KeyCode::Esc);
        assert_eq!(app.table().rows.len(), all);
    }

    #[test]
    fn enter_leads_from_a_vni_to_its_flows() {
        let mut app = app();
        type_text(&mut app, "2");
        press(&mut app, KeyCode::End);
        let vni = app.table().rows.last().unwrap()[0].text.clone();
        press(&mut app, KeyCode::Enter);
        assert_eq!((app.view, app.filter.text.clone()), (View::Flows, format!("vni={vni}")));
        press(&mut app, KeyCode::Esc);
        type_text(&mut app, "3");
        let host = app.table().rows[0][0].text.clone();
        press(&mut app, KeyCode::Enter);
        assert_eq!((app.view, app.filter.text.clone()), (View::Flows, format!("address={host}")));
    }

    #[test]
    fn nothing_changes_while_it_is_paused() {
        let mut app = app();
        let seconds = app.state.summary.seconds;
        type_text(&mut app, "p");
        let update = |seconds| {
            let summary = super::super::answer::Summary { seconds, ..Default::default() };
            Update { at: Instant::now(), summary: Some(Ok(Box::new(summary))), rows: None }
        };
        app.apply(update(seconds + 9.0));
        assert!((app.state.summary.seconds - seconds).abs() < 1e-6);
        type_text(&mut app, "p");
        app.apply(update(seconds + 9.0));
        assert!((app.state.summary.seconds - seconds - 9.0).abs() < 1e-6);
    }

    #[test]
    fn rows_are_sorted_by_one_column_after_the_other() {
        let mut app = app();
        type_text(&mut app, "4");
        let first = app.look().sort.unwrap().column;
        type_text(&mut app, "sr");
        let columns = View::Flows.columns().len();
        assert_eq!(app.look().sort, Some(Sort { column: (first + 1) % columns, reversed: true }));
        type_text(&mut app, &"s".repeat(columns - 1));
        assert_eq!(app.look().sort, Some(Sort { column: first, reversed: false }));
    }
}
