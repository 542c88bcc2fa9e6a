//! BitNet b1.58 for Burn: layers, and the published models with their files, text and generation.
//!
//! [`BitLinear`] stands where a Burn model has [`Linear`](burn::nn::Linear): the same manners, ternary weights. Its
//! arithmetic is that of [`bitnet_kernels`], its parameters, records and gradients are Burn's.
//!
//! Invariant: a layer is latent (float masters, trainable) or packed (2 bits per weight, frozen), and both forms of
//! one layer compute the same numbers.
//!
//! [`Model`] is the door for programs that want text: a checkpoint in any of the public formats, its tokenizer and chat
//! template, and iterators of tokens and text. Below it, each part stands alone: [`weights`] reads files,
//! [`architectures`] their configurations, [`decoder`] is the network, [`generation`] chooses tokens.
//!
//! Deliberately absent: kernels and bit layouts (`bitnet-kernels`), optimizers, printing.

pub mod architectures;
pub mod chat;
pub mod decoder;
mod error;
pub mod generation;
pub mod layers;
mod model;
pub mod tokenizer;
pub mod weights;

pub use error::ModelError;
pub use layers::{BitLinear, BitLinearConfig};
pub use model::{GenerateOptions, Model, Text, TextStream, TokenizerFiles};
