//! Plain loops, compiled for the instruction set of a kernel.
//!
//! The choice follows the kernel, so that a forced kernel forces these loops, too. Rust never contracts or reorders float
//! operations: a loop gives the same bits whatever it was compiled for.

use pulp::{Simd, WithSimd};

use super::Kernel;

/// Vectors that the compiler and `pulp` may use beside a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// What every processor of the target has.
    Baseline,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512.
    Avx512,
    /// NEON.
    Neon,
}

/// Runs `op` with the vectors of `kernel`'s instruction set.
pub(super) fn vectorize<W: WithSimd>(kernel: &dyn Kernel, op: W) -> W::Output {
    match kernel.vectors() {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 if let Some(simd) = pulp::x86::V4::try_new() => Simd::vectorize(simd, op),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 | Vectors::Avx2 if let Some(simd) = pulp::x86::V3::try_new() => {
            Simd::vectorize(simd, op)
        }
        #[cfg(target_arch = "aarch64")]
        Vectors::Neon if let Some(simd) = pulp::aarch64::Neon::try_new() => {
            Simd::vectorize(simd, op)
        }
        _ => Simd::vectorize(pulp::Scalar256b, op),
    }
}

/// Runs a closure that is marked `#[inline(always)]`, compiled for `kernel`'s instruction set. Without that mark it may stay
/// a function of its own, which is compiled for the baseline: the epilogue was, one division at a time.
pub(super) fn compiled<R>(kernel: &dyn Kernel, op: impl FnOnce() -> R) -> R {
    struct Closure<F>(F);

    impl<R, F: FnOnce() -> R> WithSimd for Closure<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.0)()
        }
    }

    vectorize(kernel, Closure(op))
}
