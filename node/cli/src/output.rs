//! The result of a command, for a person or for a program.
//!
//! A command makes both forms and knows nothing of `--json`; `main` prints one of them. So no
//! command can forget `--json`, and none can print two documents.

use serde_json::Value;

use crate::error::Exit;

/// What a command has to say when it is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// For a person; printed with a newline after it unless it is empty.
    pub text: String,
    /// For a program: the one document that `--json` prints.
    pub json: Value,
    /// How the process ends; anything but [`Exit::Done`] is for a command that did its work and found
    /// that something is wrong.
    pub exit: Exit,
}

impl Output {
    /// A good result in both forms.
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self {
            text: text.into(),
            json,
            exit: Exit::Done,
        }
    }

    /// One of the two forms, as it goes to stdout.
    #[must_use]
    pub fn render(&self, as_json: bool) -> String {
        if as_json {
            format!("{:#}\n", self.json)
        } else if self.text.is_empty() {
            String::new()
        } else {
            format!("{}\n", self.text.trim_end())
        }
    }
}

/// Lays rows out in columns, two blanks apart. The first row is the heading.
///
/// Columns whose every cell (below the heading) is a number stand to the right.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let is_number = |column: usize| {
        let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.all(|cell| {
            cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
                && cell
                    .chars()
                    .all(|c| c.is_ascii_digit() || ".,-".contains(c))
        })
    };
    let layout: Vec<(usize, bool)> = (0..columns).map(|c| (width_of(c), is_number(c))).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(&layout) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            if *right {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Groups the digits of a number by thousands, for people.
#[must_use]
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let cells = |row: &[&str]| row.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let text = table(&[
            cells(&["service", "epoch"]),
            cells(&["kv", "12"]),
            cells(&["a", "3"]),
        ]);
        assert_eq!(text, "service  epoch\nkv          12\na            3\n");
    }

    #[test]
    fn thousands_are_grouped() {
        let grouped: Vec<String> = [0, 999, 1000, 1_234_567]
            .into_iter()
            .map(thousands)
            .collect();
        assert_eq!(grouped, ["0", "999", "1,000", "1,234,567"]);
    }
}
