//! Layers that a user's own model is built from.

mod bit_linear;

pub use bit_linear::{BitLinear, BitLinearConfig};
