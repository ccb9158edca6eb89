//! Asking the processor for memory ahead of its use.

/// Bytes of a cache line, on most processors.
pub const LINE_BYTES: u64 = 64;

/// Asks for the cache line at `address`, without waiting for it.
///
/// A hint: nothing is read, and any address will do. Without such an instruction on the platform
/// nothing happens.
#[inline(always)]
pub fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: `_mm_prefetch` is unsafe because it takes a pointer. It does not access what that
        // points to: the instruction never faults, whatever the address, and changes nothing that a
        // program can see but how soon memory is there (Intel SDM, volume 2, PREFETCHh). It is part
        // of SSE, which every x86-64 has.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::asm;
        // SAFETY: the instruction never faults, whatever the address, and changes nothing that a program
        // can see but how soon memory is there (Arm ARM, PRFM). It reads one register, writes none,
        // touches neither stack nor flags.
        unsafe {
            asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
