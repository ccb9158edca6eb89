//! The keyed fingerprint of a key: SipHash-1-3 with 128-bit output.
//!
//! Low word: the index hash (shard, table slot, the bits kept in each index word). Both words:
//! the identity by which start-up tells two keys apart without reading the log. It is keyed by 16
//! random bytes per store, so nobody outside can choose keys that collide.
//!
//! Source: Aumasson & Bernstein, "SipHash: a fast short-input PRF", 2012; 128-bit output as in the
//! authors' reference code; one compression and three finalisation rounds.

/// The 16 random bytes that key a store's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey {
    k0: u64,
    k1: u64,
}

/// 128-bit fingerprint of a key: `lo` is the first 8 output bytes, little-endian, `hi` the last 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Output bytes 0 to 7; also the index hash.
    pub lo: u64,
    /// Output bytes 8 to 15.
    pub hi: u64,
}

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

impl HashKey {
    /// The key whose 16 bytes stand in the manifest.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        Self {
            k0: word(&bytes[..8]),
            k1: word(&bytes[8..]),
        }
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

    /// The index hash of `key`: [`Fingerprint::lo`] without the work for `hi`.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.absorbed(key).finish()
    }

    /// The 128-bit fingerprint of `key`.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self, key: &[u8]) -> Fingerprint {
        let mut state = self.absorbed(key);
        let lo = state.finish();
        state.v1 ^= 0xdd;
        let hi = state.finish();
        Fingerprint { lo, hi }
    }
}
