//! Columns that are as wide as their widest cell: cells end in tabs, and neighbouring lines that both have a
//! cell in a column share its width (elastic tab stops).
//!
//! Must not know what the cells mean.

/// How columns are padded.
#[derive(Clone, Copy, Debug)]
pub struct Tabs {
    /// The least width of a column.
    pub least: usize,
    /// Spaces behind the widest cell.
    pub padding: usize,
}

/// Of `get` and other tables.
pub const TABLE: Tabs = Tabs { least: 6, padding: 3 };
/// Of `describe`.
pub const DESCRIBE: Tabs = Tabs { least: 0, padding: 2 };

impl Tabs {
    /// Lays out a text.
    pub fn format(self, text: &str) -> String {
        let ends_in_break = text.ends_with('\n');
        let body = text.strip_suffix('\n').unwrap_or(text);
        let lines: Vec<Vec<&str>> = body.split('\n').map(|line| line.split('\t').collect()).collect();
        let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
        self.block(&lines, &mut widths, 0, lines.len(), 0);
        let mut out = String::with_capacity(text.len() * 2);
        for (at, cells) in lines.iter().enumerate() {
            for (column, cell) in cells.iter().enumerate() {
                out.push_str(cell);
                if column + 1 < cells.len() {
                    let used = cell.chars().count();
                    out.extend(std::iter::repeat_n(' ', widths[at][column].saturating_sub(used)));
                }
            }
            if at + 1 < lines.len() || ends_in_break {
                out.push('\n');
            }
        }
        out
    }

    /// Sets the widths of a column in runs of lines that have it, then those of the columns right of it.
    fn block(self, lines: &[Vec<&str>], widths: &mut [Vec<usize>], from: usize, to: usize, column: usize) {
        let has = |at: usize| column + 1 < lines[at].len();
        let mut at = from;
        while at < to {
            if !has(at) {
                at += 1;
                continue;
            }
            let start = at;
            let mut width = self.least;
            while at < to && has(at) {
                width = width.max(lines[at][column].chars().count() + self.padding);
                at += 1;
            }
            for line in &mut widths[start..at] {
                line[column] = width;
            }
            self.block(lines, widths, start, at, column + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_within_runs() {
        let table = TABLE.format("NAME\tREADY\nlonger-name\t1/1\n");
        assert_eq!(table, "NAME          READY\nlonger-name   1/1\n");
        let text = "Name:\tx\nLabels:\ta=b\n\tc=d\nplain\nA:\ty\n";
        assert_eq!(DESCRIBE.format(text), "Name:    x\nLabels:  a=b\n         c=d\nplain\nA:  y\n");
    }
}
