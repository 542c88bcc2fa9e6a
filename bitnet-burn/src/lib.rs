#![doc = include_str!("../README.md")]
//!
//! # This crate
//!
//! Only re-exports: what a Burn user needs to put ternary layers into a model. The arithmetic below, with its bit
//! layouts, kernels and operations, is [`kernels`].

pub use bitnet_kernels as kernels;
pub use bitnet_kernels::{
    ActivationQuantizer, Granularity, PackedTernary, TernaryTensor, WeightQuantizer,
};
pub use bitnet_models as models;
pub use bitnet_models::{BitLinear, BitLinearConfig, GenerateOptions, Model};
#[cfg(feature = "train")]
pub use bitnet_train as train;
