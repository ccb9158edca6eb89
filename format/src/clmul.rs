//! The checksum by carry-less multiplication of 64 bytes at a time (AVX-512 and VPCLMULQDQ).
//!
//! A message is a polynomial over GF(2); its CRC is the remainder by the CRC's polynomial, so a part of
//! it may be replaced by anything with the same remainder. [Gopal et al., "Fast CRC Computation for
//! Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009] replace 16 bytes that stand `d` bits
//! before the end by their product with `x^d mod P`. Here a block is 128 bytes, eight such lanes. The
//! last block is filled up with zeros, which multiplies by a power of x, and one with a negative exponent
//! undoes it: `x` has an inverse, since P has the term 1. So every length takes the same short path.
//!
//! What it is for: a get that is checked must be over after some hundred instructions, or the processor
//! cannot begin the next one while it waits for the memory of this one. Both checks of a record of 140
//! bytes take 58 instructions here and some 260 by tables.
//!
//! Bits are reflected as everywhere in this CRC: the lowest bit of the first byte is the highest power.
//! A product of two reflected numbers of 64 bits is their product times x, which the constants allow for.

use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_set_epi64x, _mm_xor_si128, _mm256_and_si256, _mm256_blend_epi32,
    _mm256_castsi256_si128, _mm256_clmulepi64_epi128, _mm256_extract_epi64,
    _mm256_extracti128_si256, _mm256_inserti128_si256, _mm256_permute2x128_si256,
    _mm256_set_epi64x, _mm256_set_m128i, _mm256_set1_epi64x, _mm256_shuffle_epi8,
    _mm256_srli_si256, _mm256_testz_si256, _mm256_xor_si256, _mm512_and_si512,
    _mm512_castsi512_si256, _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_set_epi64,
    _mm512_xor_si512,
};

use crate::crc::of_its_pages;
use crate::record::{CONTENT_START, HEADER_BYTES};
use crate::segment::PAGE_BYTES;

/// Bytes folded at once.
const BLOCK_BYTES: usize = 128;

/// What is looked at of a short record and behind it.
const ROOM_BYTES: usize = CONTENT_START + BLOCK_BYTES;

/// Shortest message: its first four bytes take in the state it starts from.
pub const MESSAGE_BYTES_MIN: usize = 4;

/// `x^n mod P`, reflected, in the upper half.
const fn x_pow(n: i64) -> i64 {
    let mut power = 1u32 << 31;
    let mut i = 0;
    while i < n {
        power = match power & 1 {
            1 => power >> 1 ^ 0xEDB8_8320,
            _ => power >> 1,
        };
        i += 1;
    }
    while i > n {
        // The polynomial's own top bit tells whether it was added on the way forth.
        power = match power >> 31 {
            1 => (power ^ 0xEDB8_8320) << 1 | 1,
            _ => power << 1,
        };
        i -= 1;
    }
    (power as i64) << 32
}

/// What moves 16 bytes `bits` ahead: factors of their first and of their second half.
const fn ahead(bits: i64) -> [i64; 2] {
    [x_pow(64 + bits - 1), x_pow(bits - 1)]
}

/// What moves each lane of a block to its end, and 32 bits beyond, where the CRC would stand.
const LANES: [[i64; 2]; 8] = {
    let mut lanes = [[0; 2]; 8];
    let mut i = 0;
    while i < 8 {
        lanes[i] = ahead(32 + 8 * (BLOCK_BYTES - 16 * (i + 1)) as i64);
        i += 1;
    }
    lanes
};

/// What moves a block to where the next one stands.
const NEXT: [i64; 2] = ahead(8 * BLOCK_BYTES as i64);

/// What undoes so many zeros behind a message.
static BACK: [[i64; 2]; BLOCK_BYTES + 1] = {
    let mut all = [[0; 2]; BLOCK_BYTES + 1];
    let mut zeros = 0;
    while zeros <= BLOCK_BYTES {
        all[zeros] = ahead(-8 * zeros as i64);
        zeros += 1;
    }
    all
};

/// What moves a CRC ahead by so many zeros.
static FORTH: [i64; BLOCK_BYTES + 1] = {
    let mut all = [0; BLOCK_BYTES + 1];
    let mut zeros = 0;
    while zeros <= BLOCK_BYTES {
        all[zeros] = x_pow(8 * zeros as i64 - 1);
        zeros += 1;
    }
    all
};

/// What is left of a block's first bytes, where a block ends at the last of these.
static FIRST: [u8; 2 * BLOCK_BYTES] = {
    let mut bytes = [0; 2 * BLOCK_BYTES];
    let mut i = 0;
    while i < BLOCK_BYTES {
        bytes[i] = 0xFF;
        i += 1;
    }
    bytes
};

/// What the register of 32 ones, which a message begins with, makes of a block.
const BEGUN: i64 = {
    let mut sum = 0;
    let mut i = 0;
    while i < 32 {
        sum ^= x_pow(8 * BLOCK_BYTES as i64 + i);
        i += 1;
    }
    sum
};

/// `1 / P` as a power series, up to x^63, reflected.
const INVERSE: i64 = {
    // The coefficient of x^n is bit 63 - n; that of x^k in P is bit 32 - k of `POLYNOMIAL`.
    let mut inverse = 1u64 << 63;
    let mut n = 1;
    while n < 64 {
        let (mut k, mut sum) = (1, 0);
        while k <= 32 && k <= n {
            sum ^= (POLYNOMIAL as u64 >> (32 - k)) & (inverse >> (63 - (n - k)));
            k += 1;
        }
        inverse |= (sum & 1) << (63 - n);
        n += 1;
    }
    inverse as i64
};

/// `floor(x^64 / P)` and P, reflected, for the reduction after Barrett.
const QUOTIENT: i64 = 0x1_F701_1641;
const POLYNOMIAL: i64 = 0x1_DB71_0641;

#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn load(bytes: &[u8; 64]) -> __m512i {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |i: usize| i64::from_le_bytes(words[i]);
    let (a, b, c, d) = (word(0), word(1), word(2), word(3));
    let (e, f, g, h) = (word(4), word(5), word(6), word(7));
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn four(k: [[i64; 2]; 4]) -> __m512i {
    let [[a, b], [c, d], [e, f], [g, h]] = k;
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

/// Each lane by its factors.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn fold(lanes: __m512i, factors: __m512i) -> __m512i {
    _mm512_xor_si512(
        _mm512_clmulepi64_epi128::<0x00>(lanes, factors),
        _mm512_clmulepi64_epi128::<0x11>(lanes, factors),
    )
}

/// A block as two registers.
type Block = (__m512i, __m512i);

/// The first `len` bytes of `block`, and zeros; `register` comes in at the first ones if this block is
/// the first.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn first_of(block: &[u8; BLOCK_BYTES], len: usize, register: u32) -> Option<Block> {
    let (first, second) = (block.first_chunk()?, block.last_chunk()?);
    // By bytes that are ready: masks of the processor's own would have to be made, at several micro-operations
    // each, and what is loaded by a mask has to wait for the length.
    let kept = FIRST.get(BLOCK_BYTES - len..)?;
    let (kept, rest) = kept.split_first_chunk()?;
    let register = _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, i64::from(register));
    Some((
        _mm512_and_si512(_mm512_xor_si512(load(first), register), load(kept)),
        _mm512_and_si512(load(second), load(rest.first_chunk()?)),
    ))
}

/// Two lanes whose sum has the remainder of a block with 32 zeros behind it, and a degree below 96.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn joined((a, b): Block) -> __m256i {
    let [l0, l1, l2, l3, l4, l5, l6, l7] = LANES;
    let both = _mm512_xor_si512(
        fold(a, four([l0, l1, l2, l3])),
        fold(b, four([l4, l5, l6, l7])),
    );
    _mm256_xor_si256(
        _mm512_castsi512_si256(both),
        _mm512_extracti64x4_epi64::<1>(both),
    )
}

/// As [`joined`], of a message and the zeros that fill its last block, and how many they are: `len` bytes
/// at the start of `room`, at least [`MESSAGE_BYTES_MIN`]. What stands behind them does not matter; if
/// it fills the last block, nothing is copied.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn remainder(register: u32, room: &[u8], len: usize) -> Option<(__m256i, usize)> {
    let mut copy;
    let whole = (len - 1) / BLOCK_BYTES;
    let left = len - whole * BLOCK_BYTES;
    let rest = room.get(whole * BLOCK_BYTES..)?;
    let last = match rest.first_chunk::<BLOCK_BYTES>() {
        Some(last) => last,
        None => {
            copy = [0; BLOCK_BYTES];
            copy[..left].copy_from_slice(rest.get(..left)?);
            &copy
        }
    };
    let (mut a, mut b) = first_of(last, left, if whole == 0 { register } else { 0 })?;
    if whole > 0 {
        let next = four([NEXT; 4]);
        let (blocks, _) = room.as_chunks::<BLOCK_BYTES>();
        let (mut c, mut d) = first_of(blocks.first()?, BLOCK_BYTES, register)?;
        for block in blocks.get(1..whole)? {
            let (e, f) = first_of(block, BLOCK_BYTES, 0)?;
            (c, d) = (
                _mm512_xor_si512(fold(c, next), e),
                _mm512_xor_si512(fold(d, next), f),
            );
        }
        a = _mm512_xor_si512(a, fold(c, next));
        b = _mm512_xor_si512(b, fold(d, next));
    }
    Some((joined((a, b)), BLOCK_BYTES - left))
}

/// As [`joined`], of `offset` and then the header's bytes 4 to 23.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn place_joined(register: u32, offset: u64, rest: &[u8; 20]) -> Option<__m256i> {
    const OFFSET: i64 = x_pow(32 + 160 - 1);
    const CONTENT: i64 = x_pow(32 + 128 - 1);
    const REST: [i64; 2] = ahead(32);
    let (words, _) = rest[4..].as_chunks::<8>();
    let [second, third] = words else {
        return None;
    };
    let content = u64::from(u32::from_le_bytes(*rest.first_chunk()?));
    let words = _mm256_set_m128i(
        _mm_set_epi64x(i64::from_le_bytes(*third), i64::from_le_bytes(*second)),
        _mm_set_epi64x(
            (content << 32) as i64,
            (offset ^ u64::from(register)) as i64,
        ),
    );
    let factors = _mm256_set_epi64x(REST[1], REST[0], CONTENT, OFFSET);
    Some(_mm256_xor_si256(
        _mm256_clmulepi64_epi128::<0x00>(words, factors),
        _mm256_clmulepi64_epi128::<0x11>(words, factors),
    ))
}

/// Takes 32 bits off: of each lane, the upper half has the remainder of the whole, if that has a degree
/// below 96.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn below_64(lanes: __m256i) -> __m256i {
    let factor = _mm256_set1_epi64x(const { x_pow(63) });
    _mm256_xor_si256(lanes, _mm256_clmulepi64_epi128::<0x00>(lanes, factor))
}

/// The final state of a message whose last block was filled up with so many zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn finish(joined: __m256i, zeros: usize) -> Option<u32> {
    let product = |a: __m256i, b: i64| _mm256_clmulepi64_epi128::<0x00>(a, _mm256_set1_epi64x(b));
    let lower = _mm256_set1_epi64x(0xFFFF_FFFF);
    let [a, b] = BACK.get(zeros)?;
    let sum: __m128i = _mm_xor_si128(
        _mm256_castsi256_si128(joined),
        _mm256_extracti128_si256::<1>(joined),
    );
    let (sum, factors) = (
        _mm256_set_m128i(sum, sum),
        _mm256_set_epi64x(*b, *a, *b, *a),
    );
    let sum = _mm256_xor_si256(
        _mm256_clmulepi64_epi128::<0x00>(sum, factors),
        _mm256_clmulepi64_epi128::<0x11>(sum, factors),
    );
    let sum = _mm256_srli_si256::<8>(below_64(sum));
    let multiple = product(_mm256_and_si256(sum, lower), QUOTIENT);
    let multiple = product(_mm256_and_si256(multiple, lower), POLYNOMIAL);
    let state = _mm256_extract_epi64::<0>(_mm256_xor_si256(sum, multiple));
    Some(!((state as u64 >> 32) as u32))
}

/// CRC-32 of the first `len` bytes of `room`, from the state `before`; `None` if they are not there, or
/// fewer than [`MESSAGE_BYTES_MIN`].
///
/// # Safety
/// To be called only if the processor has the features that are named here.
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
pub fn crc32(before: u32, room: &[u8], len: usize) -> Option<u32> {
    if len < MESSAGE_BYTES_MIN {
        return None;
    }
    let (message, zeros) = remainder(!before, room, len)?;
    finish(message, zeros)
}

/// `place` of a record: [`crate::crc::PlaceKey::place`] for a key that starts at the state `start`.
///
/// # Safety
/// As of [`crc32`].
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
pub fn place(start: u32, offset: u64, rest: &[u8; 20]) -> Option<u32> {
    finish(place_joined(!start, offset, rest)?, 0)
}

/// Whether both checks of a record that stands at `offset` hold, for a key that starts at the state
/// `start`. The record is the first `len` bytes of `room`.
///
/// # Safety
/// As of [`crc32`].
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
pub fn holds(start: u32, offset: u64, room: &[u8], len: usize) -> Option<bool> {
    // Most records are short and stand before others.
    let content_len = len.wrapping_sub(CONTENT_START);
    let in_one_page = offset ^ offset.wrapping_add(ROOM_BYTES as u64 - 1) < PAGE_BYTES;
    if !in_one_page || !(MESSAGE_BYTES_MIN..=BLOCK_BYTES).contains(&content_len) {
        return holds_long(start, offset, room, len);
    }
    let Some(room) = room.first_chunk::<ROOM_BYTES>() else {
        return holds_long(start, offset, room, len);
    };
    let content = joined(first_of(room.last_chunk()?, content_len, 0)?);
    let zeros = BLOCK_BYTES - content_len;
    hold::<BEGUN>(start, offset, room.first_chunk()?, content, zeros)
}

/// As [`holds`], of any length and with any room. Not part of it: that needs no stack this way.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn holds_long(start: u32, offset: u64, room: &[u8], len: usize) -> Option<bool> {
    let content_len = len.checked_sub(CONTENT_START)?;
    if content_len < MESSAGE_BYTES_MIN {
        return None;
    }
    let room = of_its_pages(room, offset, len);
    let (content, zeros) = remainder(!0, room.get(CONTENT_START..)?, content_len)?;
    hold::<0>(start, offset, room.first_chunk()?, content, zeros)
}

/// Whether both checks hold, if the content with so many zeros behind it is `content` and `BEGUN`.
///
/// Nothing is reduced to a remainder to be compared: what the message with its zeros should be is added to what it is, and
/// the sum is a multiple of P or not. It is a quotient of a degree below 32 times P if and only if its product with
/// the power series of `1 / P` has no term from x^32 to x^63.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,pclmulqdq")]
fn hold<const BEGUN: i64>(
    start: u32,
    offset: u64,
    header: &[u8; HEADER_BYTES],
    content: __m256i,
    zeros: usize,
) -> Option<bool> {
    let place = place_joined(!start, offset, header.last_chunk()?)?;
    // From here on place in the lower lane, content in the upper one.
    let sums = _mm256_xor_si256(
        _mm256_xor_si256(
            _mm256_inserti128_si256::<1>(place, _mm256_castsi256_si128(content)),
            _mm256_permute2x128_si256::<0x31>(place, content),
        ),
        _mm256_set_epi64x(BEGUN, 0, 0, 0),
    );
    // The stored checks, each in the upper half of a word.
    let upper = _mm256_set_epi64x(
        -1,
        0x0706_0504_8080_8080u64 as i64,
        -1,
        0x0302_0100_8080_8080u64 as i64,
    );
    let stored = _mm256_set1_epi64x(i64::from_le_bytes(*header.first_chunk()?));
    let stored = _mm256_xor_si256(
        _mm256_shuffle_epi8(stored, upper),
        _mm256_set1_epi64x(-1 << 32),
    );
    let factors = _mm256_blend_epi32::<0x0F>(
        _mm256_set1_epi64x(*FORTH.get(zeros)?),
        _mm256_set1_epi64x(const { x_pow(-1) }),
    );
    let expected = _mm256_clmulepi64_epi128::<0x00>(stored, factors);
    let sums = _mm256_xor_si256(below_64(sums), expected);
    let quotients = _mm256_clmulepi64_epi128::<0x01>(sums, _mm256_set1_epi64x(INVERSE));
    let beyond = _mm256_set_epi64x(0x7FFF_FFFF, i64::MIN, 0x7FFF_FFFF, i64::MIN);
    Some(_mm256_testz_si256(quotients, beyond) == 1)
}
