//! What `kvs import` reads: exports, and lines of JSON and TSV.

use kvs_format::crc::crc32;
use kvs_format::kvx::{Decoder, Encoder, FRAME_BYTES, HEADER_BYTES, Step};

use crate::edit::{self, Files};
use crate::input::Input;
use crate::lines::{ndjson as json, tsv as tabs};

const EXPORT: &[u8] = include_bytes!("../../format/vectors/export.kvx");

type Pairs = Vec<(Vec<u8>, Vec<u8>, Option<u64>)>;

/// An export: read at once and in portions it gives the same; what is given out was encoded so; the end
/// is seen only if every byte before it is what the encoder writes.
///
/// Input: flags (bit 0: checks anew, bit 1: plain bytes rather than edits of a good export), the size of
/// a portion, then the edits or bytes.
pub fn kvx(input: &[u8]) {
    let mut input = Input(input);
    let (flags, portion) = (input.u8(), usize::from(input.u8()) + 1);
    let mut bytes = match flags & 2 {
        0 => {
            let mut files = Files::from([("export".to_owned(), EXPORT.to_vec())]);
            edit::apply(&mut files, &mut input);
            files.remove("export").unwrap_or_default()
        }
        _ => input.rest().to_vec(),
    };
    if flags & 1 == 1 {
        forge(&mut bytes);
    }
    let (pairs, whole) = read(&bytes, bytes.len().max(1));
    assert_eq!(read(&bytes, portion), (pairs.clone(), whole));
    // Written again it is the same, byte for byte, as far as it was believed.
    let mut encoder = Encoder::new();
    let mut again = Encoder::header().to_vec();
    for (key, value, expires_at) in &pairs {
        let head = encoder.pair(key, value, *expires_at);
        again.extend_from_slice(&head.expect("what was decoded can be encoded"));
        again.extend_from_slice(key);
        again.extend_from_slice(value);
    }
    if whole {
        again.extend_from_slice(&encoder.end());
        assert_eq!(again, bytes);
    } else if !pairs.is_empty() {
        assert_eq!(again, bytes[..again.len()]);
    }
}

/// Its pairs, and whether it was whole. `portion` bytes come at a time.
fn read(bytes: &[u8], portion: usize) -> (Pairs, bool) {
    let mut decoder = Decoder::new();
    let mut pairs = Pairs::new();
    let mut have = 0;
    loop {
        let at = decoder.offset() as usize;
        match decoder.step(&bytes[at..have]) {
            Ok(Step::Header { used }) => assert_eq!(used, HEADER_BYTES),
            Ok(Step::Pair { pair, used }) => {
                let size = FRAME_BYTES + pair.key.len() + pair.value.len();
                assert_eq!(used, size + pair.expires_at.map_or(0, |_| 8));
                pairs.push((pair.key.to_vec(), pair.value.to_vec(), pair.expires_at));
            }
            Ok(Step::End { count, .. }) => assert_eq!(count, pairs.len() as u64),
            Ok(Step::NeedMore(need)) => {
                if have == bytes.len() {
                    return (pairs, decoder.is_at_end());
                }
                assert!(decoder.is_at_end() || need > (have - at) as u64);
                have = (have + portion).min(bytes.len());
            }
            Err(_) => return (pairs, false),
        }
    }
}

/// Writes the checks anew of the header and of every frame whose length fits.
fn forge(bytes: &mut [u8]) {
    let crc = |bytes: &[u8]| crc32(bytes).to_le_bytes();
    if let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() {
        let check = crc(&header[..12]);
        header[12..].copy_from_slice(&check);
    }
    let mut at = HEADER_BYTES;
    while let Some(frame) = bytes.get(at..at + FRAME_BYTES) {
        let extension = if frame[16] == 2 { 8 } else { 0 };
        let key = usize::from(u16::from_le_bytes([frame[18], frame[19]]));
        let value = u32::from_le_bytes([frame[20], frame[21], frame[22], frame[23]]) as usize;
        let end = at + FRAME_BYTES + extension + key + value;
        if let Some(body) = bytes.get(at + FRAME_BYTES..end) {
            let check = crc(body);
            bytes[at + 4..at + 8].copy_from_slice(&check);
        }
        let check = crc(&bytes[at + 4..at + FRAME_BYTES]);
        bytes[at..at + 4].copy_from_slice(&check);
        at = end.min(bytes.len());
    }
}

/// Lines of JSON: no panic; what is read, written and read again is the same.
pub fn ndjson(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(Some((key, value, expires_at))) = json::parse(line) else {
            continue;
        };
        let mut again = Vec::new();
        json::write(&key, &value, expires_at, &mut again);
        assert_eq!(again.pop(), Some(b'\n'));
        assert!(!again.contains(&b'\n'));
        assert_eq!(json::parse(&again), Ok(Some((key, value, expires_at))));
    }
}

/// Lines of TSV: what is read is written as it stood, except that its escapes may have been needless.
pub fn tsv(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let Ok((key, value)) = tabs::parse(line) else {
            continue;
        };
        let mut again = Vec::new();
        tabs::write(&key, &value, &mut again);
        assert_eq!(again.pop(), Some(b'\n'));
        // The one byte that may stand for itself and is written as an escape.
        if !line.contains(&b'\r') {
            assert_eq!(again, line);
        }
        assert_eq!(tabs::parse(&again), Ok((key, value)));
    }
}
