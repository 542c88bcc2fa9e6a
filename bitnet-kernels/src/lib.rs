//! x
mod backend;
pub mod cpu;
#[cfg(feature = "cube")]
pub mod cube;
mod error;
mod ops;
mod packed;
pub mod packing;
pub mod quantize;
pub mod reference;

pub use error::KernelError;
pub use ops::{
    TernaryOps, TernarySpec, TernaryTensor, defaults, ternarize, ternary_linear,
    ternary_linear_latent,
};
pub use packed::{Granularity, Histogram, PackedTernary, Scale};
pub use quantize::{ActivationQuantizer, WeightQuantizer};
