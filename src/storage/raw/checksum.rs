//! The fastest checksum that this processor has.

use kvs_format::crc::{Fast, use_fast};

/// Lets checksums be computed by the instructions for it, if this processor has them. Once for the process
/// is enough.
pub fn use_fastest() {
    if let Some(wide) = wide() {
        use_fast(wide);
    }
}

/// The instructions for it, if this processor has them.
fn wide() -> Option<Fast> {
    #[cfg(target_arch = "x86_64")]
    return x86::wide();
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Whether [`use_fastest`] changes anything.
#[cfg(test)]
pub fn is_there() -> bool {
    wide().is_some()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use kvs_format::clmul;
    use kvs_format::crc::Fast;

    /// For a processor that has what [`clmul`] asks for.
    pub(super) fn wide() -> Option<Fast> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("pclmulqdq");
        has_all.then_some(Fast {
            crc32,
            place,
            holds,
        })
    }

    fn crc32(before: u32, room: &[u8], len: usize) -> Option<u32> {
        // SAFETY: a function with target features asks that the processor has them. Only `wide` gives
        // out this one, after asking for each of those that `clmul` names.
        unsafe { clmul::crc32(before, room, len) }
    }

    fn place(start: u32, offset: u64, rest: &[u8; 20]) -> Option<u32> {
        // SAFETY: as in `crc32`.
        unsafe { clmul::place(start, offset, rest) }
    }

    fn holds(start: u32, offset: u64, room: &[u8], len: usize) -> Option<bool> {
        // SAFETY: as in `crc32`.
        unsafe { clmul::holds(start, offset, room, len) }
    }
}

// On a processor that does not have the instructions there is nothing to be tried.
#[cfg(all(test, feature = "testing"))]
mod tests {
    use kvs_format::crc::PlaceKey;
    use kvs_format::record::{Framing, HEADER_BYTES, Kind, encode_into};

    use super::wide;
    use crate::storage::sim::rng::Rng;

    fn bytes(random: &mut Rng, n: usize) -> Vec<u8> {
        (0..n).map(|_| random.next() as u8).collect()
    }

    /// By tables, whatever this process uses.
    fn by_tables(before: u32, bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
                1 => crc >> 1 ^ 0xEDB8_8320,
                _ => crc >> 1,
            })
        };
        !bytes.iter().fold(!before, step)
    }

    #[test]
    fn the_wide_checksum_is_the_one_by_definition_at_every_length_and_room() {
        let Some(wide) = wide() else { return };
        let mut random = Rng::new(1, 0);
        for len in (0..700).chain([1_000, 4_096, 65_537]) {
            for behind in [0, 1, 17, 63, 64, 127, 128, 300] {
                let bytes = bytes(&mut random, len + behind);
                for before in [0, u32::MAX, random.next() as u32] {
                    let expected = (len >= 4).then(|| by_tables(before, &bytes[..len]));
                    let found = (wide.crc32)(before, &bytes, len);
                    assert_eq!(found, expected, "{len} bytes, {behind} behind them");
                }
            }
        }
        let zeros = [0; 500];
        for len in 4..400 {
            assert_eq!(
                (wide.crc32)(7, &zeros, len),
                Some(by_tables(7, &zeros[..len]))
            );
        }
    }

    #[test]
    fn a_room_that_is_too_short_has_no_wide_checksum() {
        let Some(wide) = wide() else { return };
        let bytes = bytes(&mut Rng::new(2, 0), 600);
        for room in 0..300 {
            for len in [room + 1, room + 129, usize::MAX] {
                let found = (wide.crc32)(0, &bytes[..room], len);
                assert_eq!(found, None, "{len} of {room}");
                assert_eq!((wide.holds)(0, 0, &bytes[..room], len), None);
            }
        }
        // A header whose body would have a length below zero.
        for len in 0..21 {
            assert_eq!((wide.holds)(0, 0, &bytes, len), None, "{len}");
        }
    }

    #[test]
    fn both_wide_checks_are_those_of_the_record_and_no_flipped_bit_passes() {
        let Some(wide) = wide() else { return };
        let mut random = Rng::new(3, 0);
        // Every length of a value, and every length around where another way is taken.
        let edges = [
            0, 1, 9, 34, 40, 49, 56, 57, 58, 120, 121, 122, 140, 185, 241, 242, 249, 250,
        ];
        let edges = edges
            .iter()
            .flat_map(|key| edges.map(|value| (*key, value)));
        let lengths = (0..600).map(|n| (n * 7 % 41, n)).chain(edges);
        for (n, (key_len, value_len)) in lengths.enumerate() {
            let (key, value) = (bytes(&mut random, key_len), bytes(&mut random, value_len));
            let (salt, id) = (
                *bytes(&mut random, 16).first_chunk().expect("16"),
                random.next(),
            );
            let offset = random.next() >> (n % 64);
            let expires = (n % 3 == 0).then(|| random.next());
            let mut room = bytes(&mut random, key_len + value_len + 400);
            let place_key = PlaceKey::of_segment(&salt, id);
            let size = encode_into(
                &mut room,
                &place_key,
                offset,
                random.next().max(1),
                Framing::Single,
                Kind::Set,
                expires,
                &key,
                &value,
            )
            .expect("it has room");
            let len = HEADER_BYTES + key.len() + value.len() + expires.map_or(0, |_| 8);
            // The state that the key starts from, by definition.
            let start = by_tables(by_tables(0, &salt), &id.to_le_bytes());
            let word = |at: usize| u32::from_le_bytes(*room[at..].first_chunk().expect("4"));
            let stored = (word(0), word(4));
            let rest = room[4..].first_chunk().expect("20");
            let place = by_tables(by_tables(start, &offset.to_le_bytes()), rest);
            assert_eq!(stored, (place, by_tables(0, &room[17..len])));
            assert_eq!((wide.place)(start, offset, rest), Some(place));
            for room in [
                &room[..],
                &room[..size],
                &room[..len],
                &room[..len.max(145)],
            ] {
                let found = (wide.holds)(start, offset, room, len);
                assert_eq!(found, Some(true), "{key_len} and {value_len} bytes");
                assert!(place_key.holds(offset, room, len));
            }
            assert_eq!((wide.holds)(start, offset + 8, &room, len), Some(false));
            for _ in 0..20 {
                let bit = random.next() as usize % (len * 8);
                room[bit / 8] ^= 1 << (bit % 8);
                let found = (wide.holds)(start, offset, &room, len);
                assert_eq!(
                    found,
                    Some(false),
                    "{key_len} and {value_len} bytes, bit {bit}"
                );
                room[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
