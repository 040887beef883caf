//! A table of text, with columns as wide as their widest cell.

use clap::builder::styling::Style;

use super::error::Error;
use super::output::{HEADER, Output};

/// The space between two columns.
const GAP: &str = "  ";

/// Endpoints below the names of their columns.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    columns: [&'static str; COLUMNS],
    rows: Vec<(Style, [String; COLUMNS])>,
    /// The number of characters after which a line is cut.
    width: usize,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(columns: [&'static str; COLUMNS]) -> Self {
        Self { columns, rows: Vec::new(), width: usize::MAX }
    }

    /// Cuts lines at the width of the terminal, which would wrap them.
    pub(crate) fn within(self, width: usize) -> Self {
        Self { width, ..self }
    }

    pub(crate) fn row(&mut self, style: Style, cells: [String; COLUMNS]) {
        self.rows.push((style, cells));
    }

    /// Writes the table, or nothing if it has no rows.
    pub(crate) fn write(&self, output: &mut Output) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let width = |column: usize| {
            let cells = self.rows.iter().map(|(_, cells)| cells[column].as_str());
            cells.chain([self.columns[column]]).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        let cut = |line: String| line.chars().take(self.width).collect::<String>();
        output.styled(HEADER, cut(line(&self.columns, &widths)))?;
        self.rows.iter().try_for_each(|(style, cells)| output.styled(*style, cut(line(cells, &widths))))
    }
}

fn line(cells: &[impl AsRef<str>], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().map(AsRef::as_ref).zip(widths) {
        line += &format!("{cell:<width$}{GAP}");
    }
    line.truncate(line.trim_end().len());
    line
}
