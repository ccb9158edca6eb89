//! What a process of its own is told to do, and what it answers: both JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::Shape;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Everything in batches of 1000, then closes. Timed, but no row of its own unless it is large.
    Load,
    /// Everything, `batch` keys at a time, in a random order.
    Fill {
        /// Keys of one write.
        batch: usize,
        /// Whether every write is timed; else only all of them together.
        each: bool,
    },
    /// Random gets of what is there.
    Get {
        /// How many at once.
        threads: usize,
        /// Gets of what is not there.
        missing: bool,
    },
    /// Reads and overwrites by a Zipf distribution, two threads.
    Ycsb {
        /// Of 100 operations.
        reads: u64,
    },
    /// New keys, each write waits for the device.
    Durable {
        /// How many at once.
        threads: usize,
    },
    /// Overwrites at random, five times as many as there are keys.
    Overwrite,
    /// Gets, each timed, beside a thread that overwrites and syncs.
    GetBeside,
    /// Overwrites, each timed, beside a thread that syncs in a loop.
    PutBeside,
    /// Opens what is there, to the first answered get; then some more gets.
    Open {
        /// Keys that were stored after those of the shape, by a process that was killed.
        extra: u64,
    },
    /// Stores this many more keys one by one and kills itself.
    Kill {
        /// Keys.
        extra: u64,
    },
    /// Gets by two threads, then overwrites by one, while memory is short.
    Short,
    /// Reads back a sample of what an earlier job stored and compares every byte.
    Verify {
        /// What that was.
        stored: Stored,
        /// How much of it was done.
        done: u64,
    },
}

impl Work {
    /// Whether it leaves a directory other than it found it.
    pub fn stores(&self) -> bool {
        match self {
            Self::Load
            | Self::Fill { .. }
            | Self::Durable { .. }
            | Self::Overwrite
            | Self::GetBeside
            | Self::PutBeside
            | Self::Kill { .. }
            | Self::Short => true,
            Self::Get { .. } | Self::Open { .. } | Self::Verify { .. } => false,
            Self::Ycsb { reads } => *reads < 100,
        }
    }
}

/// What was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// The beginning of the shuffled order.
    Shuffled,
    /// Keys from 0 on.
    Counted,
    /// All keys, then the beginning of the random overwrites.
    Overwritten,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Engine, by name.
    pub engine: String,
    /// What to do.
    pub work: Work,
    /// How much of what.
    pub shape: Shape,
    /// Where the engine's files are.
    pub dir: PathBuf,
    /// Where orders come from: the same for every engine of a round.
    pub seed: u64,
    /// A stretch that takes longer is cut, and counts as far as it came.
    pub seconds: f64,
    /// Bytes for caches.
    pub cache: u64,
    /// Bytes of memory to touch first.
    pub warm: u64,
    /// File of a control group to join first.
    pub members: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Numbers, by name: see `rows.rs` for what is shown.
    pub metrics: BTreeMap<String, f64>,
    /// Lines to draw, by name: points of x and y.
    #[serde(default)]
    pub series: BTreeMap<String, Vec<[f64; 2]>>,
    /// What the numbers do not say.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Outcome {
    /// Adds a number.
    pub fn set(&mut self, name: &str, value: f64) {
        self.metrics.insert(name.to_owned(), value);
    }

    /// The number of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// Takes over what another stage of the same run found.
    pub fn merge(&mut self, other: Self) {
        self.metrics.extend(other.metrics);
        self.series.extend(other.series);
        for note in other.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}
