//! Plain loops, compiled for the instruction set of a kernel.
//!
//! The choice follows the kernel, so that a forced kernel forces these loops, too. Rust never contracts or reorders float
//! operations: a loop gives the same bits whatever it was compiled for.

use pulp::{Simd, WithSimd};

use super::Kernel;

/// Runs `op` with the vectors of `kernel`'s instruction set.
pub(super) fn vectorize<W: WithSimd>(kernel: &dyn Kernel, op: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if kernel.name().contains("avx512")
            && let Some(simd) = pulp::x86::V4::try_new()
        {
            return Simd::vectorize(simd, op);
        }
        if kernel.name() != "scalar"
            && let Some(simd) = pulp::x86::V3::try_new()
        {
            return Simd::vectorize(simd, op);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if kernel.name() != "scalar"
        && let Some(simd) = pulp::aarch64::Neon::try_new()
    {
        return Simd::vectorize(simd, op);
    }
    let _ = kernel;
    Simd::vectorize(pulp::Scalar256b, op)
}

/// Runs a closure that is marked `#[inline(always)]`, compiled for `kernel`'s instruction set.
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
