//! Columns of text.
//!
//! ```text
//!   CONTAINER ID   IMAGE     NAMES          each column but the last is as wide as its widest
//!   0123456789ab   base      calm_otter     cell + 3, at least 10, in cells of the terminal
//! ```
//!
//! Cells may come from image configurations, so what would move the cursor is shown escaped.

use std::fmt;
use unicode_width::UnicodeWidthStr;

const GAP: usize = 3;
const NARROWEST: usize = 10;

/// Rows under a heading; printed by `Display`, one line each.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self::titled(heading.iter().map(|cell| (*cell).to_owned()))
    }

    /// An empty table whose heading is not known beforehand.
    pub fn titled(heading: impl IntoIterator<Item = String>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(heading);
        table
    }

    /// Adds a row; one that is shorter or longer than the heading is shown as it is.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|cell| cell.width()).max().unwrap_or(0);
                (widest + GAP).max(NARROWEST)
            })
            .collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                f.write_str(cell)?;
                if column + 1 < row.len() {
                    write!(f, "{:1$}", "", widths[column] - cell.width())?;
                }
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

/// `text` with its control characters escaped.
pub fn printable(text: &str) -> String {
    match text.chars().any(char::is_control) {
        false => text.to_owned(),
        true => text
            .chars()
            .flat_map(|c| match c.is_control() {
                true => c.escape_default().collect::<Vec<_>>(),
                false => vec![c],
            })
            .collect(),
    }
}

/// The first `width` terminal cells of `text`, the last of them `…` where something was cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if cut.width() > width.saturating_sub(1) {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_cells_of_the_terminal() {
        let mut table = Table::new(["NAME", "TAG", "SIZE"]);
        table.row(["入れ子の木の例".into(), "v1".into(), "1kB".into()]);
        table.row(["base".into(), "latest-of-all".into(), "4.2MB".into()]);
        assert_eq!(
            table.to_string(),
            "NAME             TAG             SIZE\n\
             入れ子の木の例   v1              1kB\n\
             base             latest-of-all   4.2MB\n"
        );
    }

    #[test]
    fn narrow_columns_are_ten_cells_wide() {
        let mut table = Table::new(["A", "B"]);
        table.row(["1".into(), String::new()]);
        assert_eq!(table.to_string(), "A         B\n1         \n");
    }

    #[test]
    fn a_cell_cannot_speak_to_the_terminal() {
        let mut table = Table::new(["A"]);
        table.row(["\x1b[2Jx\ny".into()]);
        assert_eq!(table.to_string(), "A\n\\u{1b}[2Jx\\ny\n");
    }

    #[test]
    fn long_text_is_cut_with_an_ellipsis() {
        assert_eq!(ellipsis("sleep 10000", 20), "sleep 10000");
        assert_eq!(ellipsis("sleep 10000", 8), "sleep 1…");
        assert_eq!(ellipsis("木木木木", 6), "木木…");
    }
}
