//! What the benches share: keys, warm memory, interleaved rounds, medians.
#![allow(dead_code)]

use std::time::Instant;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Keys of the main table.
    pub keys: usize,
    /// Interleaved rounds; the median counts.
    pub rounds: usize,
}

/// `--test` (what `cargo bench -- --test` passes): one small round, to see that it runs.
pub fn scale() -> Scale {
    let smoke = std::env::args().any(|arg| arg == "--test");
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match smoke {
        true => Scale {
            keys: 20_000,
            rounds: 1,
        },
        false => Scale {
            keys: number("KVS_BENCH_KEYS").unwrap_or(1_000_000),
            rounds: number("KVS_BENCH_ROUNDS").unwrap_or(5),
        },
    }
}

/// A stream of well spread numbers (splitmix64: Steele, Lea, Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// Key number `i`: 16 bytes without order.
pub fn key(i: usize) -> [u8; 16] {
    let mut random = Random(i as u64);
    let mut key = [0u8; 16];
    key[..8].copy_from_slice(&random.next().to_le_bytes());
    key[8..].copy_from_slice(&(i as u64).to_le_bytes());
    key
}

/// A key that was never stored.
pub fn absent(i: usize) -> [u8; 16] {
    let mut key = key(i);
    key[15] ^= 0x80;
    key
}

/// The order in which all keys are visited.
pub fn shuffled(n: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut random = Random(seed);
    for i in (1..n).rev() {
        order.swap(i, random.below(i + 1));
    }
    order
}

/// Touches and frees `mib` MiB, so that no variant pays for memory the machine has not backed yet.
pub fn warm_memory(mib: usize) {
    let mut block = vec![0u8; mib << 20];
    for page in block.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&block);
}

/// Memory that the machine has backed, given back bit by bit while something runs that takes as much: some
/// hosts take away what a guest has not used for a second, and [`warm_memory`] does not last longer.
pub struct WarmMemory(Vec<memmap2::MmapMut>);

impl WarmMemory {
    /// Bytes of each piece: one entry of a page table.
    const PIECE: usize = 2 << 20;

    /// `bytes`, and some more.
    pub fn new(bytes: usize) -> Self {
        let piece = || {
            // Twice the size has a whole piece in it, and only that is touched.
            let mut map = memmap2::MmapOptions::new()
                .len(2 * Self::PIECE)
                .map_anon()
                .expect("memory can be had");
            // Where it is not taken, pages are small, and warm all the same.
            let _ = map.advise(memmap2::Advice::HugePage);
            let start = map.as_ptr().align_offset(Self::PIECE);
            for page in map[start..start + Self::PIECE].chunks_mut(4096) {
                page[0] = 1;
            }
            map
        };
        Self((0..bytes / Self::PIECE + 32).map(|_| piece()).collect())
    }

    /// Gives back what is more than `bytes`.
    pub fn keep(&mut self, bytes: usize) {
        self.0.truncate(bytes.div_ceil(Self::PIECE));
    }
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

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Median; of an even number, the lower middle.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// One row: a name and its samples, in nanoseconds an operation.
pub fn row(name: &str, samples: &[f64], against: Option<&[f64]>) -> String {
    let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let high = samples.iter().copied().fold(0.0, f64::max);
    let ratio = against.map_or(String::new(), |other| {
        format!("{:>7.2}x", median(other) / median(samples))
    });
    format!(
        "{name:<34} {:>9.1} ns  [{low:>8.1} {high:>8.1}] {ratio}",
        median(samples)
    )
}
