//! Standard output: bytes as they are into a pipe or a file, escaped on a terminal.
//!
//! A value is data from anywhere. Written raw to a terminal, it could move the cursor, rename the
//! window or fake another command's output; a script, on the other hand, wants the bytes.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::args::When;
use crate::exit::Failure;
use crate::json::Object;

/// Bytes that are collected before they go out.
pub const BUFFER_BYTES: usize = 64 << 10;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: u16 = 80;

/// Rows of a terminal that does not say how many it has.
const ROWS: u16 = 24;

/// Buffered standard output of one command.
pub struct Output {
    // Past the line buffer of `io::stdout`.
    to: BufWriter<File>,
    terminal: bool,
    colour: bool,
    /// Answer in JSON objects.
    pub json: bool,
    line: Vec<u8>,
}

impl Output {
    pub fn stdout(json: bool, color: When) -> Result<Self, Failure> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let file = stdout.as_fd().try_clone_to_owned();
        let file = file.map_err(Failure::Output)?;
        Ok(Self {
            to: BufWriter::with_capacity(BUFFER_BYTES, file.into()),
            terminal,
            colour: colours(color, terminal),
            json,
            line: Vec::new(),
        })
    }

    /// A person is looking.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub fn has_colour(&self) -> bool {
        self.colour
    }

    /// Width of the terminal.
    pub fn columns(&self) -> u16 {
        match rustix::termios::tcgetwinsize(self.to.get_ref()) {
            Ok(size) if size.ws_col > 0 => size.ws_col,
            _ => COLUMNS,
        }
    }

    /// Height of the terminal.
    pub fn rows(&self) -> u16 {
        match rustix::termios::tcgetwinsize(self.to.get_ref()) {
            Ok(size) if size.ws_row > 0 => size.ws_row,
            _ => ROWS,
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

    /// One JSON object, and a newline.
    pub fn object(&mut self, write: impl FnOnce(&mut Object<'_>)) -> Result<(), Failure> {
        self.line.clear();
        let mut object = Object::new(&mut self.line);
        write(&mut object);
        object.end();
        self.line.push(b'\n');
        let written = match self.terminal {
            true => write_harmless_json(&mut self.to, &self.line),
            false => self.to.write_all(&self.line),
        };
        written.map_err(Failure::Output)
    }

    /// Whole lines of an export: as they are, or with what a terminal would obey escaped, the way JSON
    /// does it or as elsewhere.
    pub fn records(&mut self, lines: &[u8], json: bool) -> Result<(), Failure> {
        let written = match (self.terminal, json) {
            (false, _) => self.to.write_all(lines),
            (true, true) => write_harmless_json(&mut self.to, lines),
            (true, false) => write_escaped_except(&mut self.to, lines, "\\\t\n"),
        };
        written.map_err(Failure::Output)
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

/// Whether to colour what goes to a stream. An empty NO_COLOR counts as unset (no-color.org).
pub fn colours(when: When, terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto => {
            terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        }
    }
}

/// Control bytes, broken UTF-8 and backslashes as `\n`, `\x1b`, `\\`; the rest as it is.
pub fn write_escaped(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_escaped_except(to, bytes, "")
}

/// The same, with the characters of `except` as they are.
pub fn write_escaped_except(to: &mut impl Write, bytes: &[u8], except: &str) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                c if except.contains(c) => write!(to, "{c}")?,
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

/// JSON as it is, except for what JSON itself leaves alone and a terminal does not: such a character
/// can only stand in a string, where `\u` stands for it.
fn write_harmless_json(to: &mut impl Write, json: &[u8]) -> io::Result<()> {
    for chunk in json.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => to.write_all(b"\n")?,
                c if c.is_control() || redirects_text(c) => write!(to, "\\u{:04x}", u32::from(c))?,
                c => write!(to, "{c}")?,
            }
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
    use super::*;

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
    fn json_on_a_terminal_is_the_same_json_without_a_control_character() {
        let text: String = ('\0'..='\u{2fff}').collect();
        let json = serde_json::to_string(&text).unwrap() + "\n";
        let mut shown = Vec::new();
        write_harmless_json(&mut shown, json.as_bytes()).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!(
            shown
                .matches(|c| char::is_control(c) || redirects_text(c))
                .count(),
            1
        );
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }

    #[test]
    fn an_escaped_backslash_cannot_be_taken_for_an_escape() {
        assert_eq!(escaped(b"\\x1b"), "\\\\x1b");
    }
}
