//! Tables, whose columns are dropped and cut until they fit, and whose rows are sorted. The same tables are
//! drawn and printed.

use std::cmp::Ordering;

/// The emphasis of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// Less interesting text.
    Faint,
    /// A heading, or something to be seen first.
    Strong,
    Good,
    Warning,
    Bad,
}

/// The sort key of a cell.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text,
    Number(f64),
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
    value: Value,
}

impl Cell {
    /// Creates a cell from untrusted text: control characters are removed, so that a terminal executes
    /// nothing.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: printable(text.into()), tone: Tone::Plain, value: Value::Text }
    }

    /// Creates a cell from a number and its text.
    pub(super) fn number(text: impl Into<String>, number: f64) -> Self {
        Self { text: text.into(), tone: Tone::Plain, value: Value::Number(number) }
    }

    pub(super) const fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    fn order(&self, other: &Self) -> Ordering {
        match (&self.value, &other.value) {
            (Value::Number(a), Value::Number(b)) => a.total_cmp(b),
            _ => self.text.cmp(&other.text),
        }
    }
}

/// Replaces control characters.
pub(super) fn printable(text: String) -> String {
    if text.chars().any(char::is_control) {
        return text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    }
    text
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// True if texts are aligned to the right, as numbers are.
    pub(super) right: bool,
    /// Columns with higher ranks are dropped first if there is no room; a column of rank 0 stays.
    pub(super) rank: u8,
    /// Texts may be cut to this many characters to make room for more columns.
    pub(super) least: u16,
    /// True if the largest come first by default.
    pub(super) falling: bool,
}

impl Column {
    /// Creates a column of numbers, of which the largest are the most interesting.
    pub(super) const fn number(title: &'static str, rank: u8) -> Self {
        Self { title, right: true, rank, least: u16::MAX, falling: true }
    }

    /// Creates a column of texts.
    pub(super) const fn text(title: &'static str, rank: u8, least: u16) -> Self {
        Self { title, right: false, rank, least, falling: false }
    }

    /// Reverses the default order.
    pub(super) const fn turned(mut self) -> Self {
        self.falling = !self.falling;
        self
    }
}

/// The order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) column: usize,
    /// True for the reverse of the column's default order.
    pub(super) reversed: bool,
}

/// A column that fits, and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) width: u16,
}

/// The columns and rows of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// The title; empty if the columns explain themselves.
    pub(super) title: String,
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
    /// The text shown if there are no rows.
    pub(super) empty: &'static str,
    pub(super) sort: Option<Sort>,
}

/// The number of blanks between columns.
const GAP: u16 = 1;

impl Table {
    /// Sorts the rows; equal ones keep their order.
    pub(super) fn sort(&mut self, sort: Sort) {
        let Some(column) = self.columns.get(sort.column) else { return };
        let falls = column.falling != sort.reversed;
        self.rows.sort_by(|a, b| {
            let order = match (a.get(sort.column), b.get(sort.column)) {
                (Some(a), Some(b)) => a.order(b),
                (a, b) => a.is_some().cmp(&b.is_some()),
            };
            if falls { order.reverse() } else { order }
        });
        self.sort = Some(sort);
    }

    /// Returns the title of a column, with a mark if the rows are sorted by it.
    pub(super) fn heading(&self, column: usize) -> String {
        let Some(Column { title, falling, .. }) = self.columns.get(column) else { return String::new() };
        match self.sort {
            Some(sort) if sort.column == column => {
                format!("{title}{}", if *falling == sort.reversed { '▲' } else { '▼' })
            }
            _ => (*title).to_owned(),
        }
    }

    /// Returns the columns that fit into this many characters, and their widths.
    pub(super) fn fit(&self, width: u16) -> Vec<Place> {
        let natural: Vec<u16> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| length(&cell.text));
                cells.max().unwrap_or_default().max(length(&self.heading(column)))
            })
            .collect();
        let least = |column: usize| natural[column].min(self.columns[column].least);
        let room = |columns: &[usize]| {
            let gaps = GAP.saturating_mul(columns.len().saturating_sub(1) as u16);
            columns.iter().fold(gaps, |sum, &column| sum.saturating_add(least(column)))
        };
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        while room(&kept) > width
            && let Some((position, _)) =
                kept.iter().enumerate().max_by_key(|(_, column)| self.columns[**column].rank)
            && kept.len() > 1
        {
            kept.remove(position);
        }
        let mut spare = width.saturating_sub(room(&kept));
        let place = |column: usize| {
            let more = spare.min(natural[column] - least(column));
            spare -= more;
            Place { column, width: (least(column) + more).min(width) }
        };
        kept.into_iter().map(place).collect()
    }

    /// Formats the table as text, with all columns at full width.
    pub(super) fn print(&self, rows: usize) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let places = self.fit(u16::MAX);
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            let padded = places.iter().zip(cells).map(|(place, cell)| self.padded(*place, cell));
            let padded = padded.collect::<Vec<_>>().join(" ");
            text.push_str(padded.trim_end());
            text.push('\n');
        };
        line(&places.iter().map(|place| self.heading(place.column)).collect::<Vec<_>>());
        for row in self.rows.iter().take(rows) {
            let cell =
                |place: &Place| row.get(place.column).map(|cell| cell.text.clone()).unwrap_or_default();
            line(&places.iter().map(cell).collect::<Vec<_>>());
        }
        text
    }

    /// Formats a text as a cell of its column.
    pub(super) fn padded(&self, Place { column, width }: Place, text: &str) -> String {
        let text = cut(text, width);
        let blanks = " ".repeat(usize::from(width.saturating_sub(length(&text))));
        if self.columns.get(column).is_some_and(|column| column.right) {
            blanks + &text
        } else {
            text + &blanks
        }
    }
}

/// Returns the number of terminal columns that a text occupies.
pub(super) fn length(text: &str) -> u16 {
    u16::try_from(ratatui::text::Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// Cuts a text that occupies more than this many terminal columns.
pub(super) fn cut(text: &str, width: u16) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let mut shown = String::new();
    for character in text.chars() {
        shown.push(character);
        if length(&shown) >= width {
            shown.pop();
            break;
        }
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] =
        &[Column::text("host", 0, 6), Column::number("bytes", 1), Column::text("why", 2, 3)];

    fn table() -> Table {
        let row = |host: &str, bytes: f64| {
            vec![Cell::text(host), Cell::number(format!("{bytes} B"), bytes), Cell::text("because")]
        };
        let rows = vec![row("10.0.0.1", 5.0), row("10.0.0.22", 1000.0), row("10.0.0.3", 9.0)];
        Table { columns: COLUMNS, rows, empty: "nothing", ..Table::default() }
    }

    fn column(table: &Table, column: usize) -> Vec<&str> {
        table.rows.iter().map(|row| row[column].text.as_str()).collect()
    }

    #[test]
    fn numbers_are_sorted_by_what_they_are() {
        let mut table = table();
        table.sort(Sort { column: 1, reversed: false });
        assert_eq!(column(&table, 1), ["1000 B", "9 B", "5 B"]);
        assert_eq!(table.heading(1), "bytes▼");
        table.sort(Sort { column: 0, reversed: true });
        assert_eq!(column(&table, 0), ["10.0.0.3", "10.0.0.22", "10.0.0.1"]);
        table.sort(Sort { column: 99, reversed: true });
    }

    #[test]
    fn columns_are_cut_and_dropped_until_they_fit() {
        let table = table();
        let widths = |width| table.fit(width).iter().map(|place| place.width).collect::<Vec<_>>();
        assert_eq!(widths(80), [9, 6, 7]);
        assert_eq!(widths(20), [9, 6, 3]);
        assert_eq!(widths(17), [6, 6, 3]);
        assert_eq!(widths(16), [9, 6]);
        assert_eq!(widths(4), [4]);
        assert_eq!(widths(0), [0]);
        assert_eq!(cut("10.0.0.22", 4), "10.…");
        assert_eq!(cut("x", 0), "");
        assert_eq!(cut("広い広い", 5), "広い…");
    }

    #[test]
    fn print_lines_columns_up() {
        assert_eq!(
            table().print(2),
            "host       bytes why\n10.0.0.1     5 B because\n10.0.0.22 1000 B because\n"
        );
        assert_eq!(Table { rows: Vec::new(), ..table() }.print(1), "nothing\n");
        assert_eq!(Cell::text("a\x1b[2Jb").text, "a?[2Jb");
    }
}
