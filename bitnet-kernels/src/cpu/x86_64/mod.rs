//! Kernels for x86-64, one instruction set per file.

mod avx2;
mod avx512;

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512Vnni;
