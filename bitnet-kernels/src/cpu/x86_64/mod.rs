//! Kernels for x86-64, one instruction set per file.

// Tiles of vectors are indexed by token, row and plane alike; iterators would hide which is which.
#![allow(unsafe_code, clippy::needless_range_loop)]

mod avx2;
mod avx2_table;
mod avx512;
mod avx512_table;

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512Vnni;
