//! Lines of any bytes, with their numbers.

use std::io::{BufRead, BufReader, Read};

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// Longest line: the largest pair in base64 takes less.
const LINE_BYTES_MAX: u64 = 6 << 30;

/// Lines of a stream.
pub struct Lines<R: Read> {
    from: BufReader<R>,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub fn new(from: R) -> Self {
        Self {
            from: BufReader::with_capacity(READ_BYTES, from),
            line: Vec::new(),
            number: 0,
        }
    }

    /// The next line and its number from 1, without its line feed; the last one may have none.
    pub fn next(&mut self) -> std::io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        // A line that was very long does not keep its memory for ever.
        self.line.shrink_to(READ_BYTES);
        let mut limited = (&mut self.from).take(LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() as u64 == LINE_BYTES_MAX {
            return Err(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                format!("line {} is longer than any pair", self.number),
            ));
        }
        Ok(Some((self.number, &self.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_the_last_needs_no_line_feed() {
        let mut lines = Lines::new(&b"a\n\n\r\xff"[..]);
        assert_eq!(lines.next().unwrap(), Some((1, &b"a"[..])));
        assert_eq!(lines.next().unwrap(), Some((2, &b""[..])));
        assert_eq!(lines.next().unwrap(), Some((3, &b"\r\xff"[..])));
        assert_eq!(lines.next().unwrap(), None);
        assert_eq!(Lines::new(&b""[..]).next().unwrap(), None);
    }
}
