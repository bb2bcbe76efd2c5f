//! Output formats: JSON, or tables of at most a hundred columns.

use std::io::{ErrorKind, Write};

use anyhow::Result;
use clap::ValueEnum;
use model::{Failure, Kind};
use serde::Serialize;

/// Columns of the widest table.
const WIDTH: usize = 100;
const GAP: usize = 3;
/// No column is cut below this.
const NARROWEST: usize = 6;

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// A JSON array with stable keys.
    Json,
}

/// Items and what a table shows of them.
pub(crate) struct List<'a, T> {
    items: &'a [T],
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl<'a, T: Serialize> List<'a, T> {
    /// These items.
    pub(crate) fn of(items: &'a [T]) -> Self {
        Self {
            items,
            head: Vec::new(),
            rows: vec![Vec::new(); items.len()],
        }
    }

    /// One more column: its head and what it shows of an item.
    pub(crate) fn column(mut self, head: &str, cell: impl Fn(&T) -> String) -> Self {
        self.head.push(head.to_owned());
        for (row, item) in self.rows.iter_mut().zip(self.items) {
            row.push(cell(item));
        }
        self
    }

    /// Prints the items: JSON has all there is of them, a table its columns.
    pub(crate) fn print(self, format: Format) -> Result<()> {
        match format {
            Format::Json => print(&serde_json::to_string_pretty(self.items)?),
            Format::Table => print(&table([vec![self.head], self.rows].concat())),
        }
    }
}

/// Prints a line or more. A reader that has gone away, such as `head`, is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| unwritable(&error).into()),
    }
}

fn unwritable(error: &std::io::Error) -> Failure {
    let cause = format!("standard output cannot be written: {error}");
    Failure::new(
        Kind::Unavailable,
        cause,
        "look where it is redirected to, and whether that disk is full",
    )
    .about("standard output")
    .with_errno(error.raw_os_error())
}

/// Several values in one cell.
pub(crate) fn join<T: ToString>(values: &[T]) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn table(rows: Vec<Vec<String>>) -> String {
    let widths = fit(&rows);
    let lines = rows.iter().map(|row| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{:width$}", cut(cell, width)));
        cells
            .collect::<Vec<_>>()
            .join(&" ".repeat(GAP))
            .trim_end()
            .to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The columns' widths: as wide as their cells, the widest ones cut until all fit.
fn fit(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(width).collect();
    while widths.iter().sum::<usize>() + GAP * columns.saturating_sub(1) > WIDTH {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    widths
}

/// A message on one line.
pub(crate) fn flat(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn cut(cell: &str, width: usize) -> String {
    let flat = flat(cell);
    if flat.chars().count() <= width {
        return flat;
    }
    flat.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(ToString::to_string).collect())
            .collect()
    }

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_blanks() {
        assert_eq!(
            table(rows(&[&["ID", "NAME"], &["1", "web"], &["22", ""]])),
            "ID   NAME\n1    web\n22"
        );
    }

    #[test]
    fn a_table_fits_a_hundred_columns_and_cuts_the_widest_cells() {
        let long = "x".repeat(300);
        let text = table(rows(&[
            &["ID", "NAME", "ERROR"],
            &["0000000000000", &long, &long],
        ]));
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert!(
            text.contains("0000000000000   x") && text.ends_with('…'),
            "{text}"
        );
    }

    #[test]
    fn a_cell_stays_on_its_line() {
        assert_eq!(table(rows(&[&["ERROR"], &["a\nb"]])), "ERROR\na b");
    }
}
