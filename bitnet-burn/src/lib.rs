#![doc = include_str!("../README.md")]
//!
//! # This crate
//!
//! Re-exports: what a Burn user needs to put ternary layers into a model; and a small model to begin with,
//! [`storyteller`]. The arithmetic below, with its bit layouts, kernels and operations, is [`kernels`].

pub mod storyteller;

pub use bitnet_kernels as kernels;
pub use bitnet_kernels::{
    ActivationQuantizer, Granularity, PackedTernary, TernaryTensor, WeightQuantizer,
};
pub use bitnet_models as models;
pub use bitnet_models::{BitLinear, BitLinearConfig, GenerateOptions, Model};
#[cfg(feature = "train")]
pub use bitnet_train as train;
