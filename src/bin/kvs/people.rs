//! What only people read: sizes, bars, tables, colours.
//!
//! Tables are laid out without colours and painted afterwards: an escape sequence has no width.

use comfy_table::{CellAlignment, ContentArrangement, Table};

const LIVE: char = '█';
const DEAD: char = '▒';
const PINNED: char = '░';

/// What the parts of a bar mean, for under the table.
pub const LEGEND: &str = "█ live  ▒ dead  ░ pinned by readers";

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A number with a comma between thousands.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar of `columns` for `full` bytes. What is not zero shows, however small.
pub fn bar(live: u64, dead: u64, pinned: u64, full: u64, columns: usize) -> String {
    let mut left = columns;
    let mut text = String::new();
    for (bytes, glyph) in [(live, LIVE), (dead, DEAD), (pinned, PINNED)] {
        let share = bytes as f64 / full.max(1) as f64 * columns as f64;
        let cells = match bytes {
            0 => 0,
            _ => (share.round() as usize).max(1).min(left),
        };
        left -= cells;
        text.extend(std::iter::repeat_n(glyph, cells));
    }
    text
}

/// A table without borders; `numbers` says which columns are aligned to the right.
pub fn table(header: &[&str], numbers: &[usize], rows: Vec<Vec<String>>, columns: u16) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_width(columns)
        .set_header(header.to_vec())
        .add_rows(rows);
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// `line` with its bars coloured.
pub fn painted(line: &str, colour: bool) -> String {
    if !colour {
        return line.to_owned();
    }
    let mut text = String::new();
    let mut current = None;
    for c in line.chars() {
        // Green, red, yellow.
        let wanted = match c {
            LIVE => Some("32"),
            DEAD => Some("31"),
            PINNED => Some("33"),
            _ => None,
        };
        if wanted != current {
            match wanted {
                Some(code) => text.push_str(&format!("\x1b[{code}m")),
                None => text.push_str("\x1b[0m"),
            }
            current = wanted;
        }
        text.push(c);
    }
    if current.is_some() {
        text.push_str("\x1b[0m");
    }
    text
}

/// `text` in bold.
pub fn bold(text: &str, colour: bool) -> String {
    match colour {
        true => format!("\x1b[1m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(size(1000 << 20), "1.0 GiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn numbers_are_read_in_groups_of_three() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1000), "1,000");
        assert_eq!(number(1_234_567), "1,234,567");
    }

    #[test]
    fn a_bar_shows_every_part_in_proportion_and_never_overflows() {
        assert_eq!(bar(50, 25, 25, 100, 8), "████▒▒░░");
        assert_eq!(bar(50, 25, 0, 100, 8), "████▒▒");
        assert_eq!(bar(100, 0, 0, 100, 4), "████");
        assert_eq!(bar(1, 1, 1, 1_000_000, 10), "█▒░");
        assert_eq!(bar(0, 0, 0, 0, 10), "");
        assert_eq!(bar(u64::MAX, u64::MAX, 1, u64::MAX, 10).chars().count(), 10);
        assert_eq!(bar(999, 1, 0, 1000, 10).chars().count(), 10);
    }

    #[test]
    fn colours_end_where_the_bar_does() {
        assert_eq!(painted("a █▒ b", true), "a \x1b[32m█\x1b[31m▒\x1b[0m b");
        assert_eq!(painted("█", true), "\x1b[32m█\x1b[0m");
        assert_eq!(painted("a █▒ b", false), "a █▒ b");
        assert_eq!(bold("x", true), "\x1b[1mx\x1b[0m");
        assert_eq!(bold("x", false), "x");
    }
}
