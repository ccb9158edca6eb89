//! The two hashes of a key, both keyed by the store's 16 random bytes.
//!
//! The *index hash* finds a key's entry: 33 bits for shard, table slot and index word. It is asked for at
//! every read and write, so it is a few multiplications; its four secret words come from the store's
//! key. Keys that share all 33 bits are compared with each other's records, and one call of a scan shows
//! them all: time, and memory of that call, nothing else. It is not a pseudo-random function: who knows
//! the store's key makes such keys without effort, who does not has 256 secret bits against them.
//!
//! The *fingerprint* says which key it is, without a look at the log: SipHash-1-3 with 128-bit output, in
//! which the index hash has taken its 33 bits. Start-up and compaction tell keys apart by it, so the 95
//! bits that are left must not be chosen from outside: two keys of the same fingerprint would be one.
//!
//! Sources: Aumasson & Bernstein, "SipHash: a fast short-input PRF", 2012; 128-bit output as in the
//! authors' reference code; one compression and three finalisation rounds. Multiply-and-fold as in
//! Wang Yi's wyhash, with secrets of each store in the place of constants.

/// The 16 random bytes that key a store's hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey {
    k0: u64,
    k1: u64,
    /// SipHash-1-3 of the numbers 0 to 3, low words.
    secrets: [u64; 4],
}

/// 128-bit fingerprint of a key: `lo` is the first 8 bytes, little-endian, `hi` the last 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Bytes 0 to 7; its [`INDEX_BITS`] are the index hash.
    pub lo: u64,
    /// Bytes 8 to 15.
    pub hi: u64,
}

/// The bits of a low word that are the index hash: 16 to 38 stand in the index word, 50 to 59 choose the
/// shard.
pub const INDEX_BITS: u64 = ((1 << 23) - 1) << 16 | ((1 << SHARD_BITS_MAX) - 1) << 50;

/// Number of the shard that a hash belongs to, of `1 << shard_bits` shards: bits 50 and up.
///
/// Disjoint from the bits that [`Fingerprint::lo`] lends to the index word (16 to 38).
#[must_use]
pub const fn shard_of(lo: u64, shard_bits: u8) -> usize {
    ((lo >> 50) & ((1 << shard_bits) - 1)) as usize
}

/// Most shard bits a store may have: hash bits 50 to 59.
pub const SHARD_BITS_MAX: u8 = 10;

impl Fingerprint {
    /// The 16 bytes as they stand in a hint entry.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0u8; 16];
        out[..8].copy_from_slice(&self.lo.to_le_bytes());
        out[8..].copy_from_slice(&self.hi.to_le_bytes());
        out
    }
}

#[derive(Clone, Copy)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn finish(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    let mut array = [0u8; 8];
    array.copy_from_slice(bytes);
    u64::from_le_bytes(array)
}

#[inline(always)]
fn half_word(bytes: &[u8]) -> u64 {
    let mut array = [0u8; 4];
    array.copy_from_slice(bytes);
    u64::from(u32::from_le_bytes(array))
}

/// Both halves of the product, added without carry.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl HashKey {
    /// The key whose 16 bytes stand in the manifest.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let mut key = Self {
            k0: word(&bytes[..8]),
            k1: word(&bytes[8..]),
            secrets: [0; 4],
        };
        key.secrets = [0u64, 1, 2, 3].map(|n| key.absorbed(&n.to_le_bytes()).finish());
        key
    }

    #[inline(always)]
    fn absorbed(&self, bytes: &[u8]) -> State {
        let mut state = State {
            v0: self.k0 ^ 0x736f_6d65_7073_6575,
            v1: self.k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: self.k0 ^ 0x6c79_6765_6e65_7261,
            v3: self.k1 ^ 0x7465_6462_7974_6573,
        };
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            state.absorb(word(chunk));
        }
        let mut last = (bytes.len() as u64) << 56;
        for (i, byte) in chunks.remainder().iter().enumerate() {
            last |= u64::from(*byte) << (8 * i);
        }
        state.absorb(last);
        state.v2 ^= 0xee;
        state
    }

    /// The index hash of `key`: the [`INDEX_BITS`] of [`Fingerprint::lo`], the others 0.
    ///
    /// Cost: two multiplications for a key of up to 16 bytes, one more for every 16 bytes beyond.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let [s0, s1, s2, s3] = self.secrets;
        let n = key.len();
        let (a, b) = match n {
            0 => (0, 0),
            1..=3 => {
                let three = [key[0], key[n / 2], key[n - 1], 0];
                (half_word(&three), 0)
            }
            4..=7 => (half_word(&key[..4]), half_word(&key[n - 4..])),
            8..=16 => (word(&key[..8]), word(&key[n - 8..])),
            _ => {
                let mut state = 0;
                let mut rest = key;
                while let Some((block, after)) = rest.split_first_chunk::<16>()
                    && !after.is_empty()
                {
                    state = fold(word(&block[..8]) ^ s2, word(&block[8..]) ^ s3 ^ state);
                    rest = after;
                }
                let last = &key[n - 16..];
                (word(&last[..8]), word(&last[8..]) ^ state)
            }
        };
        fold(fold(a ^ s0, b ^ s1) ^ s2, n as u64 ^ s3) & INDEX_BITS
    }

    /// The 128-bit fingerprint of `key`.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self, key: &[u8]) -> Fingerprint {
        let mut state = self.absorbed(key);
        let lo = state.finish() & !INDEX_BITS | self.hash(key);
        state.v1 ^= 0xdd;
        let hi = state.finish();
        Fingerprint { lo, hi }
    }
}
