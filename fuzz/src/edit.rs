//! A small language of damage: what may happen to the files of a directory.

use std::collections::BTreeMap;

use crate::input::Input;

/// File name -> bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Files never grow beyond this.
const FILE_BYTES_MAX: usize = 1 << 18;

/// No input needs more edits than this to make its point.
const EDITS_MAX: usize = 64;

/// Applies the edits that `input` consists of. False if one of them put chosen bytes into a file:
/// such an edit can repair a checksum by itself.
pub fn apply(files: &mut Files, input: &mut Input<'_>) -> bool {
    let mut honest = true;
    for _ in 0..EDITS_MAX {
        if input.is_empty() || files.is_empty() {
            break;
        }
        honest &= edit(files, input);
    }
    honest
}

fn pick(files: &Files, byte: u8) -> String {
    let names: Vec<&String> = files.keys().collect();
    names[usize::from(byte) % names.len()].clone()
}

/// Where the bytes that matter end: zeros behind are preallocated space.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

fn edit(files: &mut Files, input: &mut Input<'_>) -> bool {
    let what = input.u8();
    let name = pick(files, input.u8());
    let bytes = files.entry(name.clone()).or_default();
    // Offsets from the end as well as from the start: records follow each other from 4096 on.
    let place = |at: u16, len: usize| match at {
        at @ 0x8000.. => len.saturating_sub(usize::from(at & 0x7FFF)),
        at => usize::from(at).min(len),
    };
    match what % 10 {
        0 => {
            let at = place(input.u16(), used(bytes));
            let len = usize::from(input.u8() % 8) + 1;
            for (byte, mask) in bytes.iter_mut().skip(at).zip(input.take(len)) {
                *byte ^= mask;
            }
        }
        1 => {
            let at = place(input.u16(), used(bytes));
            bytes.truncate(at);
        }
        2 => {
            let at = place(input.u16(), used(bytes));
            let len = usize::from(input.u16());
            bytes
                .iter_mut()
                .skip(at)
                .take(len)
                .for_each(|byte| *byte = 0);
        }
        3 => {
            files.remove(&name);
        }
        4 => {
            let len = (bytes.len() + usize::from(input.u16())).min(FILE_BYTES_MAX);
            bytes.resize(len.max(bytes.len()), 0);
        }
        5 => {
            let copy = bytes.clone();
            let other = pick(files, input.u8());
            files.insert(other, copy);
        }
        6 => {
            // A run of bytes of this file to another place, here or in another file.
            let from = place(input.u16(), used(bytes));
            let len = usize::from(input.u16() % 512);
            let run: Vec<u8> = bytes.iter().skip(from).take(len).copied().collect();
            let other = pick(files, input.u8());
            let bytes = files.entry(other).or_default();
            let at = place(input.u16(), used(bytes));
            for (byte, new) in bytes.iter_mut().skip(at).zip(run) {
                *byte = new;
            }
        }
        7 => {
            let other = new_name(input);
            let bytes = files.remove(&name).unwrap_or_default();
            files.insert(other, bytes);
        }
        8 => {
            let name = new_name(input);
            let len = usize::from(input.u8());
            files.insert(name, input.take(len).to_vec());
            return len < 24;
        }
        _ => {
            let at = place(input.u16(), used(bytes));
            let len = usize::from(input.u8());
            for (byte, new) in bytes.iter_mut().skip(at).zip(input.take(len)) {
                *byte = *new;
            }
            return false;
        }
    }
    true
}

fn new_name(input: &mut Input<'_>) -> String {
    use kvs_format::name;
    match input.u8() % 5 {
        0 => name::MANIFEST.to_owned(),
        1 => name::MANIFEST_TMP.to_owned(),
        2 => name::segment(input.number()).to_string(),
        3 => name::hint(input.number()).to_string(),
        _ => "somebody-elses".to_owned(),
    }
}
