//! The fingerprint is SipHash-1-3 with 128-bit output: compared with an independent one, the crate
//! `siphasher`.

use std::hash::Hasher;

use kvs_format::hash::{Fingerprint, HashKey, SHARD_BITS_MAX, shard_of};
use proptest::collection::vec;
use proptest::prelude::*;
use siphasher::sip128::{Hasher128, SipHasher13};

fn reference(key: &[u8; 16], bytes: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(bytes);
    hasher.finish128().as_bytes()
}

fn agrees(key: &[u8; 16], bytes: &[u8]) {
    let ours = HashKey::from_bytes(key);
    let fingerprint = ours.fingerprint(bytes);
    assert_eq!(fingerprint.to_bytes(), reference(key, bytes), "{bytes:?}");
    assert_eq!(ours.hash(bytes), fingerprint.lo);
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
