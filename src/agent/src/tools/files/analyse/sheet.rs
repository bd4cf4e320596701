//! Workbooks: xlsx, xls, xlsb and ods.

use std::io::Cursor;

use calamine::{Data, DataType, Reader, open_workbook_auto_from_rs};
use serde_json::json;

use super::{Analysis, Wishes, table};

/// The most sheets that are named.
const SHEETS_MAX: usize = 100;

pub(super) fn analyse(document: &[u8], wishes: &Wishes) -> Result<Analysis, String> {
    let mut workbook = open_workbook_auto_from_rs(Cursor::new(document))
        .map_err(|_| "it is no workbook".to_owned())?;
    let names = workbook.sheet_names();
    let name = match &wishes.sheet {
        Some(name) if names.contains(name) => name.clone(),
        Some(_) => return Err(format!("there is no such sheet; there are {names:?}")),
        None => names.first().cloned().ok_or("it has no sheets")?,
    };
    let range = workbook.worksheet_range(&name).map_err(|error| error.to_string())?;
    let (all, columns) = range.get_size();
    let (before, count) = table::wanted(wishes);
    let rows: Vec<Vec<String>> = range
        .rows()
        .skip(before)
        .take(count)
        .map(|row| table::shown(row.iter().map(text)))
        .collect();
    let first = before.saturating_add(1);
    let said = format!(
        "Workbook with the sheets {:?}. {name:?} has {all} rows, {columns} columns. Rows from \
         {first}:\n{}",
        &names[..names.len().min(SHEETS_MAX)],
        table::lines(&rows, before)
    );
    let data = json!({
        "sheets": &names[..names.len().min(SHEETS_MAX)],
        "sheet": name,
        "rows": all,
        "columns": columns,
        "first_row": first,
        "part": rows,
    });
    Ok(Analysis { kind: "sheet".to_owned(), text: said, data })
}

fn text(cell: &Data) -> String {
    match cell.as_string() {
        Some(text) => text,
        None => cell.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XLSX: &[u8] = include_bytes!("../../../../tests/files/two.xlsx");
    const ODS: &[u8] = include_bytes!("../../../../tests/files/two.ods");

    #[test]
    fn sheets_are_tables() {
        for workbook in [XLSX, ODS] {
            let analysis = analyse(workbook, &Wishes::default()).unwrap();
            assert_eq!(analysis.data["sheets"], json!(["Prices", "Notes"]));
            let expect = json!([["item", "price"], ["apple", "1.5"], ["pear", "2"]]);
            assert_eq!(analysis.data["part"], expect);
            let wishes = Wishes {
                sheet: Some("Notes".to_owned()),
                first_row: Some(2),
                rows: Some(1),
                ..Wishes::default()
            };
            assert_eq!(analyse(workbook, &wishes).unwrap().data["part"], json!([["second"]]));
            let wishes = Wishes { sheet: Some("None".to_owned()), ..Wishes::default() };
            assert!(analyse(workbook, &wishes).unwrap_err().contains("Prices"));
        }
    }

    #[test]
    fn what_is_no_workbook_is_told() {
        for document in [&b""[..], b"PK\x03\x04", &XLSX[..100]] {
            assert!(analyse(document, &Wishes::default()).is_err());
        }
    }
}
