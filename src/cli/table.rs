//! Tables of text. Rows go in, aligned lines come out. It never breaks a line.

/// Columns padded to the widest cell, two blanks between them, titles first.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let all: Vec<Vec<String>> = std::iter::once(titles.iter().map(|t| (*t).to_owned()).collect())
        .chain(rows.iter().cloned())
        .collect();
    let widths: Vec<usize> = (0..titles.len())
        .map(|i| all.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    all.iter().map(|row| line(row, &widths)).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    cells.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["node", "n"], &rows), ["node  n", "a     1", "long  2"]);
    }
}
