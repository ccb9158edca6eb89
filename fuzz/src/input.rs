//! Bytes of an input, taken from the front; what is missing is zero.

/// The bytes not yet taken.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Up to `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) | u16::from(self.u8()) << 8
    }

    /// A number of any size, small ones more often: a byte says how many more follow.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=0xF0 => u64::from(small),
            0xFF => u64::MAX,
            0xFE => u64::MAX - u64::from(self.u8()),
            0xFD => 1 << (self.u8() % 64),
            more => {
                let bytes = self.take(usize::from(more - 0xF0).min(8));
                bytes
                    .iter()
                    .rev()
                    .fold(0, |n, byte| n << 8 | u64::from(*byte))
            }
        }
    }
}
