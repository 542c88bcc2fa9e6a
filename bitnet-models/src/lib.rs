//! BitNet b1.58 layers as Burn modules.
//!
//! [`BitLinear`] stands where a Burn model has [`Linear`](burn::nn::Linear): the same manners, ternary weights. Its
//! arithmetic is that of [`bitnet_kernels`], its parameters, records and gradients are Burn's.
//!
//! Invariant: a layer is latent (float masters, trainable) or packed (2 bits per weight, frozen), and both forms of
//! one layer compute the same numbers.
//!
//! Deliberately absent: kernels and bit layouts (`bitnet-kernels`), optimizers, printing.

pub mod architectures;
mod error;
pub mod generation;
pub mod layers;
pub mod tokenizer;
pub mod weights;

pub use error::ModelError;
pub use layers::{BitLinear, BitLinearConfig};
