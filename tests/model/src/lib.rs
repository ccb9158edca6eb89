//! The model of a store: what it was asked to do, what it may answer, what may be left of it.
//!
//! A test, or a fuzzer, makes a list of [`Op`]s and gives it to [`run`], which does them to a real
//! engine on a simulated disk and to an [`Oracle`] and compares the two after every step: through
//! reopening, compaction, killed processes, power cuts with any legal choice of what survives them,
//! lost and damaged hints, and calls that fail.
//!
//! What is checked carries the names that the crash tests use as well:
//!
//! | | |
//! |---|---|
//! | O1 | what was acknowledged as durable before a cut is there after it; of level `Interval`, all that was acknowledged an interval before the last that was |
//! | O2 | a batch is there whole or not at all |
//! | O3, O4 | no value that was never written, none that is older than the durable one, none that was removed |
//! | O5 | the state is a prefix of the order of commits, at every level of durability |
//! | O6 | opening twice gives the same state as opening once, cut or not |
//! | O7 | after recovery all of this holds again |
//! | O8 | the index from hints is the index from a scan |
//! | O11 | no file remains that the manifest does not know |
//! | O12 | an operation that failed is there whole or not at all, and a failed sync is final |
//!
//! Nothing here panics because of what the store does: what is wrong comes back as a [`Failure`].

mod check;
mod damage;
mod op;
mod oracle;
mod runner;
mod seen;
mod strategy;

pub use check::{Pairs, images_agree, pairs, snapshot_holds, strays, universe_holds};
pub use damage::{Answers, May, Verdict, ask, inflict, is_located, judge};
pub use op::{
    Fill, Harm, How, KEYS, Level, Only, Op, SNAPSHOTS, Span, Strike, ValueSpec, Wound, key,
};
pub use oracle::{Oracle, State, Version, Write};
pub use runner::{Failure, Runner, Setup, Tally, run, shrunk};
pub use strategy::{ops, setup};
