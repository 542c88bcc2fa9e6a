//! Kernels for x86-64, one instruction set per file.

// Tiles of vectors are indexed by token, row and plane alike; iterators would hide which is which.
#![allow(unsafe_code, clippy::needless_range_loop)]

#[cfg(target_os = "linux")]
mod amx;
mod avx2;
mod avx2_table;
mod avx512;
mod avx512_base3;
mod avx512_digits;
mod avx512_table;
mod avx_vnni;
mod avx_vnni_digits;

#[cfg(target_os = "linux")]
pub(super) use amx::Amx;
pub(super) use avx_vnni::AvxVnni;
pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512Vnni;

/// Asks for each cache line of these words, for the second-level cache.
fn prefetch(words: &[u32]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in words.chunks(16) {
        // SAFETY: the instruction is part of x86-64, and an address is never at fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}
