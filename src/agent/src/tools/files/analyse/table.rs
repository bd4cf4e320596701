//! Tables: CSV by RFC 4180, with whichever separator the first line suggests, and rows of any origin
//! as text.

use serde_json::{Value, json};

use super::{Analysis, Wishes};

/// How many rows are shown where nothing is said, and at most.
const ROWS: (u32, u32) = (20, 200);
/// The most columns that are shown, and the longest cell.
const COLUMNS_MAX: usize = 100;
const CELL_CHARS_MAX: usize = 200;

/// Which rows are wanted: how many stand before, and how many there are at most.
pub(super) fn wanted(wishes: &Wishes) -> (usize, usize) {
    let first = wishes.first_row.unwrap_or(1).max(1) - 1;
    let count = wishes.rows.unwrap_or(ROWS.0).clamp(1, ROWS.1);
    (usize::try_from(first).unwrap_or(usize::MAX), usize::try_from(count).unwrap_or(0))
}

/// A row as it is shown.
pub(super) fn shown(cells: impl Iterator<Item = String>) -> Vec<String> {
    let short = |cell: String| match cell.char_indices().nth(CELL_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &cell[..at]),
        None => cell,
    };
    cells.take(COLUMNS_MAX).map(short).collect()
}

/// Rows as lines.
pub(super) fn lines(rows: &[Vec<String>], first: usize) -> String {
    let line = |(at, row): (usize, &Vec<String>)| {
        let cells: Vec<String> =
            row.iter().map(|cell| cell.replace(['\n', '\r', '\t'], " ")).collect();
        format!("{}\t{}\n", first + at + 1, cells.join("\t"))
    };
    rows.iter().enumerate().map(line).collect()
}

pub(super) fn analyse(text: &str, wishes: &Wishes) -> Analysis {
    let separator = separator(text);
    let (before, count) = wanted(wishes);
    let (mut rows, mut all, mut columns) = (Vec::new(), 0_usize, 0_usize);
    let mut reader = Reader { rest: text, separator };
    while let Some(row) = reader.row(all >= before && rows.len() < count) {
        columns = columns.max(row.columns);
        if let Some(cells) = row.cells {
            rows.push(shown(cells.into_iter()));
        }
        all += 1;
    }
    let said = format!(
        "Table: {all} rows, {columns} columns. Rows from {}:\n{}",
        before.saturating_add(1),
        lines(&rows, before)
    );
    let data = json!({
        "rows": all,
        "columns": columns,
        "separator": separator.to_string(),
        "first_row": before.saturating_add(1),
        "part": rows.into_iter().map(Value::from).collect::<Vec<_>>(),
    });
    Analysis { kind: "table".to_owned(), text: said, data }
}

/// What separates cells: what the first line has most of.
fn separator(text: &str) -> char {
    let line = text.lines().next().unwrap_or_default();
    let count = |separator: &char| line.matches(*separator).count();
    // Of several the last is taken: commas are usual.
    ['|', ';', '\t', ','].into_iter().max_by_key(count).unwrap_or(',')
}

struct Row {
    columns: usize,
    /// None where they are not wanted.
    cells: Option<Vec<String>>,
}

struct Reader<'a> {
    rest: &'a str,
    separator: char,
}

impl Reader<'_> {
    /// The next row; its cells where they are `wanted`.
    fn row(&mut self, wanted: bool) -> Option<Row> {
        if self.rest.is_empty() {
            return None;
        }
        let mut row = Row { columns: 0, cells: wanted.then(Vec::new) };
        loop {
            let is_last = self.cell(&mut row);
            row.columns += 1;
            if is_last {
                return Some(row);
            }
        }
    }

    /// Takes a cell, and what stands behind it. Whether it was the last one of its row.
    fn cell(&mut self, row: &mut Row) -> bool {
        let keeps = row.columns < COLUMNS_MAX;
        let mut cell = String::new();
        if let Some(quoted) = self.rest.strip_prefix('"') {
            self.rest = quoted;
            loop {
                // A quote that is never closed takes what there is.
                let end = self.rest.find('"').unwrap_or(self.rest.len());
                if keeps && row.cells.is_some() {
                    cell.push_str(&self.rest[..end]);
                }
                self.rest = self.rest.get(end + 1..).unwrap_or_default();
                match self.rest.strip_prefix('"') {
                    Some(rest) => {
                        cell.push('"');
                        self.rest = rest;
                    }
                    None => break,
                }
            }
        }
        let separator = self.separator;
        let end = self.rest.find([separator, '\n']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        let is_last = !rest.starts_with(separator);
        self.rest = rest.get(1..).unwrap_or_default();
        if let Some(cells) = row.cells.as_mut().filter(|_| keeps) {
            cell.push_str(if is_last { text.trim_end_matches('\r') } else { text });
            cells.push(cell);
        }
        is_last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(text: &str, wishes: &Wishes) -> Value {
        analyse(text, wishes).data["part"].clone()
    }

    #[test]
    fn cells_are_found() {
        let check = |text: &str, expect: Value| {
            assert_eq!(part(text, &Wishes::default()), expect, "{text:?}");
        };
        check("a,b\r\n1,2\r\n", json!([["a", "b"], ["1", "2"]]));
        check("a;b,c;\n1;", json!([["a", "b,c", ""], ["1", ""]]));
        check("\"a, \"\"b\"\"\n\",c", json!([["a, \"b\"\n", "c"]]));
        check("\"never closed", json!([["never closed"]]));
        check("a\n\nb", json!([["a"], [""], ["b"]]));
        check("", json!([]));
    }

    #[test]
    fn rows_are_counted_and_some_are_shown() {
        let text: String = (1..=1000).map(|n| format!("{n},x\n")).collect();
        let wishes = Wishes { first_row: Some(500), rows: Some(2), ..Wishes::default() };
        let analysis = analyse(&text, &wishes);
        assert_eq!((&analysis.data["rows"], &analysis.data["columns"]), (&1000.into(), &2.into()));
        assert_eq!(analysis.data["part"], json!([["500", "x"], ["501", "x"]]));
        assert!(analysis.text.ends_with("500\t500\tx\n501\t501\tx\n"), "{}", analysis.text);
        let wishes = Wishes { rows: Some(u32::MAX), ..Wishes::default() };
        assert_eq!(part(&text, &wishes).as_array().map(Vec::len), Some(200));
        let wide = "x,".repeat(5000);
        assert_eq!(part(&wide, &Wishes::default())[0].as_array().map(Vec::len), Some(COLUMNS_MAX));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            rows in prop::collection::vec(prop::collection::vec("[a-z\",;\n é]{1,6}", 2..5), 1..6),
        ) {
            let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",");
            let text: Vec<String> = rows.iter().map(line).collect();
            // Which separator it is, is a guess; here it is known.
            let (text, mut read) = (text.join("\r\n"), Vec::new());
            let mut reader = Reader { rest: &text, separator: ',' };
            while let Some(row) = reader.row(true) {
                read.push(row.cells.unwrap());
            }
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a\",;|\t\r\né]{0,60}", first in 0_u32..9, rows in 0_u32..9) {
            analyse(&text, &Wishes { first_row: Some(first), rows: Some(rows), ..Wishes::default() });
        }
    }
}
