//! How much memory the index of so many keys takes, before there is one.
//!
//! Keys fall into shards at random, and a shard's table doubles when it is full: so some shards of an
//! index have doubled already and others not. How many is a question of the Poisson distribution.

use crate::index::words::{BUCKET_BYTES, GROUP_BYTES, buckets_for};

/// Bytes of a shard without its table: two cache lines (see `table`).
const SHARD_BYTES: u64 = 128;

/// Beyond this mean the normal distribution is as good.
const NORMAL: f64 = 500.0;

/// Bytes of the index of `keys` keys in `1 << bits` shards.
pub fn forecast_bytes(bits: u8, keys: u64) -> u64 {
    let shards = 1u64 << bits;
    let mean = keys as f64 / shards as f64;
    let spread = 8.0 * mean.sqrt() + 8.0;
    // Between these every table is of a size that is counted.
    let (low, high) = ((mean - spread).max(0.0), mean + spread);
    let mut bytes = 0.0;
    let (mut below, mut len) = (0.0, low as u64);
    // From one doubling to the next.
    while (len as f64) <= high {
        let buckets = buckets_for(len as usize) as u64;
        let last = last_with(buckets);
        let share = at_most(last as f64, mean);
        let table = match buckets {
            0 => 0,
            buckets => buckets * BUCKET_BYTES + GROUP_BYTES,
        };
        bytes += (share - below) * table as f64;
        (below, len) = (share, last + 1);
    }
    (bytes * shards as f64) as u64 + shards * SHARD_BYTES
}

/// Most words that a table of `buckets` holds.
fn last_with(buckets: u64) -> u64 {
    match buckets {
        0 => 0,
        1..=8 => buckets - 1,
        _ => buckets / 8 * 7,
    }
}

/// Chance that a shard holds at most `len` keys if the mean is `mean`.
fn at_most(len: f64, mean: f64) -> f64 {
    if mean > NORMAL {
        return normal((len + 0.5 - mean) / mean.sqrt());
    }
    let (mut term, mut sum) = ((-mean).exp(), 0.0);
    let mut i = 0.0;
    while i <= len && i <= mean + 20.0 * mean.sqrt() + 50.0 {
        sum += term;
        i += 1.0;
        term *= mean / i;
    }
    sum
}

/// The normal distribution: Abramowitz & Stegun, 1964, 26.2.17; right to seven digits.
fn normal(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - normal(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let tail = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    1.0 - tail * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::index::Index;
    use crate::storage::location::Word;

    #[test]
    fn an_index_takes_what_was_forecast() {
        let index = Index::new(6, &Arc::new(()));
        let mut hash = 1u64;
        for n in 0..200_000u64 {
            if n.is_power_of_two() || n % 10_000 == 0 {
                let (forecast, real) = (forecast_bytes(6, n) as f64, index.bytes() as f64);
                let off = (forecast / real - 1.0).abs();
                assert!(off < 0.05, "{n} keys: {forecast} for {real}");
            }
            hash = hash.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(n | 1);
            let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            index.lock(mixed).insert(Word::new(mixed, 0, 4096 + n * 8));
        }
        assert_eq!(forecast_bytes(10, 0), 1024 * SHARD_BYTES);
    }

    #[test]
    fn the_distribution_is_continuous_where_one_formula_takes_over() {
        for x in [-3.0, -1.0, 0.0, 0.5, 2.0] {
            let exact = at_most((NORMAL + x * NORMAL.sqrt()).floor(), NORMAL);
            let len = (NORMAL + x * NORMAL.sqrt()).floor();
            let near = normal((len + 0.5 - NORMAL) / NORMAL.sqrt());
            assert!((exact - near).abs() < 0.01, "{x}: {exact} and {near}");
        }
        assert!((normal(1.0) - 0.841_344_7).abs() < 1e-6);
        assert!((normal(-1.0) - 0.158_655_3).abs() < 1e-6);
    }
}
