//! A bar with rate and remaining time on standard error, if that is a terminal.

use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::write_escaped_except;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Pairs,
}

pub struct Progress(ProgressBar);

impl Progress {
    /// A bar to `total`, a counter without one; nothing if nobody is to see it.
    pub fn new(unit: Unit, total: Option<u64>, shown: bool) -> Self {
        if !shown || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => {
                "[{wide_bar}] {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}  "
            }
            (Unit::Bytes, None) => "{bytes}  {bytes_per_sec}  {elapsed}",
            (Unit::Pairs, Some(_)) => "[{wide_bar}] {pos}/{len} pairs  {per_sec}  ETA {eta}  ",
            (Unit::Pairs, None) => "{pos} pairs  {per_sec}  {elapsed}",
        };
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▓░"));
        }
        Self(bar)
    }

    pub fn set(&self, position: u64) {
        self.0.set_position(position);
    }

    /// A line above the bar.
    pub fn say(&self, text: &str) {
        self.0.suspend(|| say(text));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Whether a person sees standard error.
pub fn is_seen() -> bool {
    stderr().is_terminal()
}

/// A line of ours on standard error.
pub fn say(text: &str) {
    let mut line = b"kvs: ".to_vec();
    // Writing into a Vec cannot fail; nobody is left to be told when standard error is closed.
    let _ = write_escaped_except(&mut line, text.as_bytes(), "\\");
    line.push(b'\n');
    let _ = stderr().lock().write_all(&line);
}
