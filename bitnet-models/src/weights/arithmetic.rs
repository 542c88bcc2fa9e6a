//! The arithmetic in which writers make masters ternary.
//!
//! Trits depend on it: near half of the scale a value falls on one side in f32 and on the other in bf16.

use bitnet_kernels::quantize::{WeightQuantizer, ternarize, ternarize_bf16};
use bitnet_kernels::{Granularity, KernelError, PackedTernary};

use super::Floats;

/// The arithmetic in which masters become ternary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// That of the training layer.
    #[default]
    F32,
    /// bf16 in every step, as the Falcon-E checkpoints were made.
    Bf16,
}

impl Arithmetic {
    /// Quantizes masters by their absolute mean.
    pub(super) fn ternarize(
        self,
        masters: &Floats<'_>,
        d_out: usize,
        d_in: usize,
        granularity: Granularity,
    ) -> Result<PackedTernary, KernelError> {
        let values = masters.to_f32();
        match self {
            Self::F32 => ternarize(&values, d_out, d_in, WeightQuantizer::AbsMean, granularity),
            Self::Bf16 if granularity == Granularity::Tensor => {
                ternarize_bf16(&values, d_out, d_in)
            }
            Self::Bf16 => Err(KernelError::Granularity {
                layout: "bf16 arithmetic",
                holds: "one scale per tensor",
                found: granularity.to_string(),
            }),
        }
    }
}
