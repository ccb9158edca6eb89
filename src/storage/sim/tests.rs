//! Each rule of the simulation, shown by an example; then all of them against a naive model.

mod damage;
mod faults;
mod harsh;
mod model;
mod names;
mod power;

use std::collections::BTreeSet;

use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::sim::*;

/// Enough seeds to see everything that an example can show.
const SEEDS: std::ops::Range<u64> = 0..1000;

/// Whole sectors, one per letter, filled with it; zeros for `.`.
fn sectors(letters: &str) -> Vec<u8> {
    let byte = |letter| if letter == b'.' { 0 } else { letter };
    let letters = letters.bytes().map(byte);
    letters.flat_map(|byte| [byte; SECTOR_BYTES]).collect()
}

/// The letters that [`sectors`] made this of; `.` for zeros.
fn letters(bytes: &[u8]) -> String {
    let letter = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "torn sector");
        match sector[0] {
            0 => '.',
            letter => char::from(letter),
        }
    };
    bytes.chunks(SECTOR_BYTES).map(letter).collect()
}

/// A directory with one durable file `f` of whole sectors.
fn durable(letters: &str) -> (SimFs, SimFile) {
    let fs = SimFs::new();
    fs.put("f", &sectors(letters));
    let file = fs.open("f", Access::ReadWrite).unwrap();
    (fs, file)
}

/// Everything that a cut now may leave, as far as the seeds show.
fn images(fs: &SimFs) -> Vec<Image> {
    let mut replay = fs.replay();
    replay.advance_to(fs.log_len());
    let all = replay.survivals(SEEDS);
    all.into_iter()
        .map(|survive| replay.image(survive))
        .collect()
}

/// All that file `f` may hold after a cut now, `-` if it may be missing.
fn outcomes(fs: &SimFs) -> BTreeSet<String> {
    let image = |image: &Image| image.read("f").map_or("-".to_owned(), |f| letters(&f));
    images(fs).iter().map(image).collect()
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}
