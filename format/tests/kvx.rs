//! An export comes back whole or is refused, at the frame that is wrong: whatever bit is flipped,
//! wherever it is cut, however its bytes arrive.

use kvs_format::DecodeError;
use kvs_format::crc::crc32;
use kvs_format::kvx::{Decoder, END_BYTES, Encoder, FRAME_BYTES, HEADER_BYTES, Pair, Step};
use proptest::prelude::*;

type Owned = (Vec<u8>, Vec<u8>, Option<u64>);

fn export(pairs: &[Owned]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = Encoder::header().to_vec();
    for (key, value, expires_at) in pairs {
        bytes.extend_from_slice(&encoder.pair(key, value, *expires_at).unwrap());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    bytes.extend_from_slice(&encoder.end());
    bytes
}

fn owned(pair: &Pair<'_>) -> Owned {
    (pair.key.to_vec(), pair.value.to_vec(), pair.expires_at)
}

/// Pairs before the first problem, and that problem with its offset.
fn read(bytes: &[u8]) -> (Vec<Owned>, Result<u64, (u64, DecodeError)>) {
    let mut decoder = Decoder::new();
    let mut pairs = Vec::new();
    let mut said = None;
    loop {
        let at = decoder.offset();
        match decoder.step(&bytes[at as usize..]) {
            Ok(Step::Header { used }) => assert_eq!(used, HEADER_BYTES),
            Ok(Step::Pair { pair, .. }) => pairs.push(owned(&pair)),
            Ok(Step::End { count, used }) => {
                assert_eq!(used, END_BYTES);
                said = Some(count);
            }
            Ok(Step::NeedMore(need)) => {
                return match said {
                    Some(count) => (pairs, Ok(count)),
                    None => {
                        let have = bytes.len() as u64 - at;
                        assert!(need > have, "{need} bytes asked for, {have} given");
                        (pairs, Err((at, DecodeError::Truncated { need, have })))
                    }
                };
            }
            Err(error) => return (pairs, Err((at, error))),
        }
        assert!(decoder.offset() > at, "a step takes something");
    }
}

fn sample() -> Vec<Owned> {
    vec![
        (b"apple".to_vec(), b"red".to_vec(), None),
        (vec![], vec![], None),
        (
            b"melon".to_vec(),
            b"green".to_vec(),
            Some(1_700_000_000_000),
        ),
        (vec![0xFF; 40], vec![0; 90], None),
    ]
}

proptest! {
    #[test]
    fn pairs_come_back(pairs: Vec<Owned>) {
        let bytes = export(&pairs);
        let (read, ended) = read(&bytes);
        prop_assert_eq!(ended, Ok(pairs.len() as u64));
        prop_assert_eq!(read, pairs);
    }

    #[test]
    fn portions_make_no_difference(pairs: Vec<Owned>, portions in prop::collection::vec(1usize..40, 1..20)) {
        let bytes = export(&pairs);
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        let mut have = 0;
        let mut portions = portions.iter().cycle();
        loop {
            let at = decoder.offset() as usize;
            match decoder.step(&bytes[at..have]).unwrap() {
                Step::Pair { pair, .. } => found.push(owned(&pair)),
                Step::NeedMore(0) if have == bytes.len() => break,
                Step::NeedMore(_) => {
                    prop_assert!(have < bytes.len());
                    have = (have + portions.next().unwrap()).min(bytes.len());
                }
                Step::Header { .. } | Step::End { .. } => {}
            }
        }
        prop_assert!(decoder.is_at_end());
        prop_assert_eq!(found, pairs);
    }

    #[test]
    fn no_bytes_are_a_panic(bytes: Vec<u8>, good in 0usize..60) {
        let mut forged = export(&sample());
        forged.truncate(good);
        forged.extend_from_slice(&bytes);
        prop_assert!(read(&forged).1.is_err());
        prop_assert!(read(&bytes).1.is_err());
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let good = export(&sample());
    assert_eq!(read(&good), (sample(), Ok(4)));
    let mut bytes = good.clone();
    for at in 0..good.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let (pairs, ended) = read(&bytes);
            let (offset, _) = ended.expect_err("a flipped bit");
            // What comes before is given out and right; the error stands at its frame.
            assert!(offset <= at as u64, "byte {at}: error at {offset}");
            assert_eq!(pairs, sample()[..pairs.len()], "byte {at}");
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_cut_is_noticed_wherever_it_is() {
    let good = export(&sample());
    for cut in 0..good.len() {
        let (pairs, ended) = read(&good[..cut]);
        assert!(
            matches!(ended, Err((_, DecodeError::Truncated { .. }))),
            "cut at {cut}: {ended:?}"
        );
        assert_eq!(pairs, sample()[..pairs.len()]);
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(
        read(&longer).1,
        Err((good.len() as u64, DecodeError::AfterEnd))
    );
}

/// Starts of the frames of an export.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut decoder = Decoder::new();
    let mut starts = Vec::new();
    while !decoder.is_at_end() {
        starts.push(decoder.offset() as usize);
        decoder.step(&bytes[decoder.offset() as usize..]).unwrap();
    }
    starts.remove(0);
    starts
}

#[test]
fn a_frame_lost_doubled_or_out_of_turn_is_noticed() {
    let good = export(&sample());
    let starts = starts(&good);
    assert_eq!(starts.len(), 5);
    let (first, second) = (
        good[starts[0]..starts[1]].to_vec(),
        good[starts[1]..starts[2]].to_vec(),
    );
    let (before, behind) = (&good[..starts[0]], &good[starts[2]..]);
    for middle in [
        second.clone(),
        [first.clone(), first.clone(), second.clone()].concat(),
        [second, first].concat(),
    ] {
        let bytes = [before, &middle, behind].concat();
        assert!(matches!(
            read(&bytes).1,
            Err((_, DecodeError::BadLsn { .. }))
        ));
    }
}

/// `bytes` with the frame at `start` changed and its own checks made right again.
fn forged(bytes: &[u8], start: usize, body: usize, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let frame = &mut bytes[start..start + FRAME_BYTES + body];
    change(frame);
    let crc = crc32(&frame[FRAME_BYTES..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32(&frame[4..FRAME_BYTES]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn what_passes_its_own_check_and_is_wrong_is_refused() {
    let good = export(&sample());
    let starts = starts(&good);
    let change = |at: usize, value: u8| forged(&good, starts[0], 8, |frame| frame[at] = value);
    let reason = |bytes: &[u8]| read(bytes).1.unwrap_err().1;
    assert_eq!(
        reason(&change(16, 0)),
        DecodeError::BadKind {
            kind: 0,
            framing: 0
        }
    );
    assert_eq!(
        reason(&change(16, 4)),
        DecodeError::BadKind {
            kind: 4,
            framing: 0
        }
    );
    assert_eq!(reason(&change(17, 1)), DecodeError::NotZero);
    assert!(matches!(
        reason(&change(16, 3)),
        DecodeError::BadLength { .. }
    ));
    // A value longer than any: refused before a byte of it is asked for.
    let long = forged(&good, starts[0], 8, |frame| frame[20..24].fill(0xFF));
    assert!(matches!(
        reason(&long),
        DecodeError::BadLength {
            found: 0xFFFF_FFFF,
            ..
        }
    ));
    // A whole record changed: every frame holds, the sum does not.
    let other = forged(&good, starts[0], 8, |frame| frame[FRAME_BYTES] = b'b');
    let (pairs, ended) = read(&other);
    assert_eq!(pairs.len(), 4);
    assert!(matches!(ended, Err((_, DecodeError::BadCrc { .. }))));
    for (at, value) in [(0, 5), (8, 0)] {
        let end = forged(&good, starts[4], 24, |frame| {
            frame[FRAME_BYTES + at] = value
        });
        assert!(matches!(reason(&end), DecodeError::BadLength { .. }));
    }
    let end = forged(&good, starts[4], 24, |frame| frame[FRAME_BYTES + 20] = 1);
    assert_eq!(reason(&end), DecodeError::NotZero);
    let end = forged(&good, starts[4], 24, |frame| frame[18] = 1);
    assert!(matches!(reason(&end), DecodeError::BadLength { .. }));
    for (at, wanted) in [
        (8, DecodeError::BadVersion { found: 2 }),
        (10, DecodeError::NotZero),
    ] {
        let mut header = good.clone();
        header[at] = 2;
        let crc = crc32(&header[..12]).to_le_bytes();
        header[12..16].copy_from_slice(&crc);
        assert_eq!(reason(&header), wanted);
    }
}

#[test]
fn what_no_store_can_hold_is_not_encoded() {
    let mut encoder = Encoder::new();
    let error = encoder.pair(&[0; 65_536], b"", None).unwrap_err();
    assert_eq!(
        error,
        DecodeError::BadLength {
            found: 65_536,
            allowed: 65_535
        }
    );
    assert_eq!(encoder.count(), 0);
    encoder.pair(&[0; 65_535], b"", None).unwrap();
}
