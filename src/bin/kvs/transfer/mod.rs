//! Import and export: a store to and from a directory tree, NDJSON, TSV or kvx.
//!
//! Both stream: what is held in memory is a few batches and the largest value. What has been done when
//! something goes wrong stays and is whole: batches on the way in, records on the way out.
//!
//! A batch of operations takes the same way in.
//!
//! Elsewhere: the formats (`files`, `ndjson`, `tsv`, `kvx`), the lines two of them are made of
//! (`lines`), signals (`interrupt`), what a person sees meanwhile (`progress`).

mod batch;
mod export;
mod files;
mod import;
pub mod interrupt;
mod kvx;
mod lines;
mod ndjson;
pub mod progress;
mod tsv;

use std::time::Instant;

use crate::exit::{Answer, Failure};
use crate::output::Output;
use crate::people::{number, size};

pub use batch::{Pieces, batch};
pub use export::{Export, export};
pub use import::{Import, import};

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    pairs: u64,
    /// Bytes of their keys and values.
    bytes: u64,
    /// Lines, files or keys that --keep-going left out.
    left_out: u64,
}

impl Tally {
    fn add(&mut self, pairs: u64, bytes: u64) {
        self.pairs += pairs;
        self.bytes += bytes;
    }

    /// Says it: as an object on standard output, or in words on standard error.
    fn tell(
        self,
        what: &str,
        begin: Instant,
        stdout_is_free: bool,
        words: bool,
        out: &mut Output,
    ) -> Result<Answer, Failure> {
        let seconds = begin.elapsed().as_secs_f64();
        if out.json && stdout_is_free {
            out.object(|o| {
                o.plain("pairs", self.pairs)
                    .plain("bytes", self.bytes)
                    .plain("left_out", self.left_out)
                    .plain("seconds", seconds);
            })?;
        } else if words || self.left_out > 0 {
            let mut text = format!(
                "{what} {} pairs, {} in {seconds:.1} s",
                number(self.pairs),
                size(self.bytes)
            );
            if self.left_out > 0 {
                text.push_str(&format!(", left out {}", number(self.left_out)));
            }
            progress::say(&text);
        }
        Ok(Answer::of(self.left_out == 0))
    }
}
