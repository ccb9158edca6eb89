//! Standard output: bytes as they are into a pipe or a file, escaped on a terminal.
//!
//! A value is data from anywhere. Written raw to a terminal, it could move the cursor, rename the
//! window or fake another command's output; a script, on the other hand, wants the bytes.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use crate::exit::Failure;

/// Buffered standard output of one command.
pub struct Output {
    to: BufWriter<StdoutLock<'static>>,
    terminal: bool,
}

impl Output {
    pub fn stdout() -> Self {
        let stdout = io::stdout().lock();
        let terminal = stdout.is_terminal();
        Self {
            to: BufWriter::with_capacity(64 << 10, stdout),
            terminal,
        }
    }

    /// Bytes of a key or a value: escaped if a person is looking.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.terminal {
            write_escaped(&mut self.to, bytes).map_err(Failure::Output)
        } else {
            self.raw(bytes)
        }
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(Failure::Output)
    }

    /// Our own words, and a newline.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.to, "{text}").map_err(Failure::Output)
    }

    /// A step of a longer command is over: show it now.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::Output)
    }

    /// Everything is out, or the command has failed.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.flush()
    }
}

/// Control bytes, broken UTF-8 and backslashes as `\n`, `\x1b`, `\\`; the rest as it is.
pub fn write_escaped(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => to.write_all(b"\\\\")?,
                '\n' => to.write_all(b"\\n")?,
                '\r' => to.write_all(b"\\r")?,
                '\t' => to.write_all(b"\\t")?,
                c if c.is_control() || redirects_text(c) => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        write!(to, "\\x{byte:02x}")?;
                    }
                }
                c => write!(to, "{c}")?,
            }
        }
        for byte in chunk.invalid() {
            write!(to, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Marks that make a terminal show text in another order than it is stored.
fn redirects_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::write_escaped;

    fn escaped(bytes: &[u8]) -> String {
        let mut to = Vec::new();
        write_escaped(&mut to, bytes).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn text_is_shown_as_it_is() {
        assert_eq!(escaped("grün, 緑, 🟩".as_bytes()), "grün, 緑, 🟩");
    }

    #[test]
    fn a_terminal_gets_no_control_byte() {
        assert_eq!(escaped(b"\x1b[2Jgone\x07"), "\\x1b[2Jgone\\x07");
        assert_eq!(escaped(b"two\nlines\r\tand\0"), "two\\nlines\\r\\tand\\x00");
        // C1: one character to Unicode, CSI to some terminals.
        assert_eq!(escaped("\u{9b}2J".as_bytes()), "\\xc2\\x9b2J");
        assert_eq!(escaped("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
        let every_byte: Vec<u8> = (0..=255).collect();
        assert!(!escaped(&every_byte).chars().any(char::is_control));
    }

    #[test]
    fn broken_utf8_is_shown_byte_by_byte() {
        assert_eq!(escaped(b"ok\xff\xfeok\xe2\x82"), "ok\\xff\\xfeok\\xe2\\x82");
    }

    #[test]
    fn an_escaped_backslash_cannot_be_taken_for_an_escape() {
        assert_eq!(escaped(b"\\x1b"), "\\\\x1b");
    }
}
