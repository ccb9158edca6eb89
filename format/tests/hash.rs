//! The fingerprint is SipHash-1-3 with 128-bit output, compared with an independent one, the crate
//! `siphasher`; but for the bits of the index hash, which is compared with what SPEC.md says, written in
//! another way.

use std::hash::Hasher;

use kvs_format::hash::{Fingerprint, HashKey, INDEX_BITS, SHARD_BITS_MAX, shard_of};
use proptest::collection::vec;
use proptest::prelude::*;
use siphasher::sip128::{Hasher128, SipHasher13};

fn reference(key: &[u8; 16], bytes: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(bytes);
    hasher.finish128().as_bytes()
}

/// A word of up to 8 bytes, the first one lowest.
fn word(bytes: &[u8]) -> u128 {
    assert!(bytes.len() <= 8);
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u128::from(*byte))
}

fn fold(a: u128, b: u128) -> u128 {
    let product = a * b;
    (product ^ product >> 64) & u128::from(u64::MAX)
}

/// SPEC.md, section 10.
fn index_hash(key: &[u8; 16], bytes: &[u8]) -> u64 {
    let secret = |i: u64| word(&reference(key, &i.to_le_bytes())[..8]);
    let s = [0, 1, 2, 3].map(secret);
    let n = bytes.len();
    let mut x = 0;
    let (a, b) = if n == 0 {
        (0, 0)
    } else if n < 4 {
        (word(&[bytes[0], bytes[n / 2], bytes[n - 1]]), 0)
    } else if n < 8 {
        (word(&bytes[..4]), word(&bytes[n - 4..]))
    } else {
        let end = n.max(16);
        for i in 0..(end - 1) / 16 {
            let block = &bytes[16 * i..16 * i + 16];
            x = fold(word(&block[..8]) ^ s[2], word(&block[8..]) ^ s[3] ^ x);
        }
        (
            word(&bytes[n.saturating_sub(16)..][..8]),
            word(&bytes[n - 8..]),
        )
    };
    let hash = fold(fold(a ^ s[0], b ^ x ^ s[1]) ^ s[2], n as u128 ^ s[3]);
    hash as u64 & 0x0FFC_007F_FFFF_0000
}

fn agrees(key: &[u8; 16], bytes: &[u8]) {
    let ours = HashKey::from_bytes(key);
    let fingerprint = ours.fingerprint(bytes);
    let expected = reference(key, bytes);
    let hi = word(&expected[8..]) as u64;
    let lo = word(&expected[..8]) as u64 & !INDEX_BITS | index_hash(key, bytes);
    assert_eq!(fingerprint, Fingerprint { lo, hi }, "{bytes:?}");
    assert_eq!(ours.hash(bytes), index_hash(key, bytes), "{bytes:?}");
}

#[test]
fn the_index_hash_has_33_bits_and_they_are_those_that_the_index_uses() {
    assert_eq!(INDEX_BITS, 0x0FFC_007F_FFFF_0000);
    assert_eq!(INDEX_BITS.count_ones(), 33);
    assert_eq!(
        shard_of(INDEX_BITS, SHARD_BITS_MAX),
        (1 << SHARD_BITS_MAX) - 1
    );
}

/// Keys of every length that differ in one bit, or only in their length, must not share hash bits more
/// often than chance has it.
#[test]
fn keys_that_are_alike_fall_apart() {
    for key in [[0; 16], [0xFF; 16], std::array::from_fn(|i| i as u8 * 17)] {
        let key = HashKey::from_bytes(&key);
        let mut hashes = Vec::new();
        for len in 0..200usize {
            let mut bytes = vec![0; len];
            hashes.push(key.hash(&bytes));
            for bit in 0..8 * len {
                bytes[bit / 8] ^= 1 << (bit % 8);
                hashes.push(key.hash(&bytes));
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        for n in 0..100_000u64 {
            hashes.push(key.hash(&n.to_be_bytes()));
            hashes.push(key.hash(format!("user:{n}").as_bytes()));
        }
        let all = hashes.len();
        assert!(all > 300_000);
        // Every bit is set in about half of them: within six standard deviations.
        for bit in (0..64).filter(|bit| INDEX_BITS >> bit & 1 == 1) {
            let ones = hashes.iter().filter(|hash| *hash >> bit & 1 == 1).count();
            let off = ones.abs_diff(all / 2) as f64;
            assert!(
                off < 3.0 * (all as f64).sqrt(),
                "bit {bit}: {ones} of {all}"
            );
        }
        hashes.sort_unstable();
        hashes.dedup();
        // Of 360,000 random values of 33 bits about 8 pairs are equal.
        assert!(all - hashes.len() < 40, "{} of {all}", all - hashes.len());
    }
}

#[test]
fn it_agrees_with_the_reference_for_every_length_up_to_64() {
    let key = std::array::from_fn(|i| i as u8);
    let bytes: Vec<u8> = (0..64).map(|i| 255 - i).collect();
    for len in 0..=bytes.len() {
        agrees(&key, &bytes[..len]);
        agrees(&[0; 16], &vec![0; len]);
        agrees(&[0xFF; 16], &vec![0xFF; len]);
    }
}

proptest! {
    #[test]
    fn it_agrees_with_the_reference_for_any_key_and_bytes(
        key in any::<[u8; 16]>(),
        bytes in vec(any::<u8>(), 0..600),
    ) {
        agrees(&key, &bytes);
    }
}

#[test]
fn the_longest_key_is_hashed_with_its_length_modulo_256() {
    agrees(&[7; 16], &vec![0x5A; kvs_format::KEY_BYTES_MAX]);
}

#[test]
fn the_low_word_is_the_first_eight_bytes_little_endian() {
    let fingerprint = Fingerprint {
        lo: 0x0706_0504_0302_0100,
        hi: 0x0F0E_0D0C_0B0A_0908,
    };
    assert_eq!(fingerprint.to_bytes(), std::array::from_fn(|i| i as u8));
}

#[test]
fn the_shard_is_bits_50_to_59_of_the_low_word() {
    for bits in 0..=SHARD_BITS_MAX {
        assert_eq!(shard_of(u64::MAX, bits), (1 << bits) - 1);
        for bit in 0..64 {
            let expected = match (50..50 + u32::from(bits)).contains(&bit) {
                true => 1 << (bit - 50),
                false => 0,
            };
            assert_eq!(shard_of(1 << bit, bits), expected, "bit {bit} of {bits}");
        }
    }
}
