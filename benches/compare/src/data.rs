//! What is stored and which of it is asked for: keys, values, orders. All of it follows from numbers, so
//! that what an engine returns can be checked without keeping a copy.

use serde::{Deserialize, Serialize};

/// A stream of well spread numbers (splitmix64: Steele, Lea, Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// Spreads the bits of a number; no two numbers become the same.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Longest key.
pub const KEY_BYTES_MAX: usize = 256;

/// Room for a key.
pub type KeyBuffer = [u8; KEY_BYTES_MAX];

/// Values are pieces of a block of random bytes that start within its first this many.
const POOL_BYTES: usize = 256 << 10;

/// Numbers from here on are never stored.
const ABSENT: u64 = 1 << 40;

/// How much of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Keys.
    pub keys: u64,
    /// Bytes of a key, 8 to [`KEY_BYTES_MAX`].
    pub key_len: usize,
    /// Bytes of a value.
    pub value_len: usize,
}

impl Shape {
    /// Bytes of all keys and values.
    pub fn payload(&self) -> u64 {
        self.keys * (self.key_len + self.value_len) as u64
    }
}

/// Keys and values of a shape.
#[derive(Debug)]
pub struct Data {
    /// The shape.
    pub shape: Shape,
    pool: Vec<u8>,
}

impl Data {
    /// Random bytes are made once, outside of what is timed: they do not compress, and taking a piece of
    /// them costs nothing.
    pub fn new(shape: Shape) -> Self {
        let mut random = Random(0x6b76_7373);
        let mut pool = vec![0; POOL_BYTES + shape.value_len + 8];
        for piece in pool.chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
        Self { shape, pool }
    }

    /// Key number `i`: no order, and no two alike.
    pub fn key<'a>(&self, i: u64, buffer: &'a mut KeyBuffer) -> &'a [u8] {
        let key = &mut buffer[..self.shape.key_len];
        let spread = mix(i.wrapping_add(0x9E37_79B9_7F4A_7C15));
        for (n, piece) in key.chunks_mut(8).enumerate() {
            let word = match n {
                0 => spread,
                1 => i,
                n => spread.rotate_left(n as u32),
            };
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
        key
    }

    /// A key that was never stored.
    pub fn absent<'a>(&self, i: u64, buffer: &'a mut KeyBuffer) -> &'a [u8] {
        self.key(i + ABSENT, buffer)
    }

    /// The value that key number `i` got at its `version`-th writing.
    pub fn value(&self, i: u64, version: u64) -> &[u8] {
        let at = mix(i ^ version.rotate_left(40)) as usize % POOL_BYTES / 8 * 8;
        &self.pool[at..at + self.shape.value_len]
    }
}

/// All of `0..n` in a random order.
pub fn shuffled(n: u64, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut random = Random(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    order
}

/// `count` of `0..n`, each at random.
pub fn picked(n: u64, count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(n) as u32).collect()
}

/// Sum of all bytes, eight at a time: every byte of a value that was read is used.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut total = 0u64;
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        total = total.wrapping_add(u64::from_le_bytes(word));
    }
    for byte in chunks.remainder() {
        total = total.wrapping_add(u64::from(*byte));
    }
    total
}

/// Ranks by a Zipf distribution with exponent 0.99 (Gray et al., "Quickly Generating Billion-Record
/// Synthetic Databases", 1994, as in YCSB).
#[derive(Debug)]
pub struct Zipf {
    n: f64,
    alpha: f64,
    eta: f64,
    zeta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    /// Ranks of `0..n`.
    pub fn new(n: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
        let (zeta_n, zeta_2) = (zeta(n), zeta(2));
        let n = n as f64;
        Self {
            n,
            alpha: 1.0 / (1.0 - THETA),
            eta: (1.0 - (2.0 / n).powf(1.0 - THETA)) / (1.0 - zeta_2 / zeta_n),
            zeta: zeta_n,
        }
    }

    /// The number of a key: the popular ones are spread over the key space.
    pub fn pick(&self, random: &mut Random) -> u64 {
        let n = self.n as u64;
        Random(self.rank(random)).below(n)
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let u = random.next() as f64 / u64::MAX as f64;
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        let rank = self.n * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.n as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn data(key_len: usize) -> Data {
        Data::new(Shape {
            keys: 1000,
            key_len,
            value_len: 100,
        })
    }

    #[test]
    fn keys_are_different_and_those_never_stored_are_others() {
        for key_len in [8, 16, 64, 256] {
            let data = data(key_len);
            let mut seen = HashSet::new();
            let mut buffer = [0; KEY_BYTES_MAX];
            for i in 0..1000 {
                assert!(seen.insert(data.key(i, &mut buffer).to_vec()), "{i}");
                assert_eq!(seen.iter().next().map(Vec::len), Some(key_len));
            }
            for i in 0..1000 {
                assert!(!seen.contains(data.absent(i, &mut buffer)), "{i}");
            }
        }
    }

    #[test]
    fn values_differ_by_key_and_by_version() {
        let data = data(16);
        let values: HashSet<_> = (0..100)
            .flat_map(|i| (0..3).map(move |v| (i, v)))
            .map(|(i, v)| data.value(i, v).to_vec())
            .collect();
        assert!(values.len() > 290, "{}", values.len());
    }

    #[test]
    fn a_shuffled_order_has_everything_once() {
        let mut order = shuffled(1000, 7);
        assert_ne!(order[..10], (0..10).collect::<Vec<u32>>()[..]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn the_most_popular_key_gets_its_share() {
        let zipf = Zipf::new(1000);
        let mut random = Random(1);
        let mut counts = vec![0u32; 1000];
        for _ in 0..100_000 {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        // 1 / (the sum of i^-0.99 for i up to 1000) is 0.129.
        assert!((12_000..14_000).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[1] && counts[1] > counts[10]);
    }

    #[test]
    fn a_sum_uses_every_byte() {
        let mut bytes = [1u8; 21];
        let before = sum(&bytes);
        for i in 0..bytes.len() {
            bytes[i] ^= 4;
            assert_ne!(sum(&bytes), before, "byte {i}");
            bytes[i] ^= 4;
        }
    }
}
