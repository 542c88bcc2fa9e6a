//! [`AttentionOps`](crate::AttentionOps) on each backend: unwrap primitives, call a kernel, wrap. No arithmetic here.
//!
//! Each takes the cache by value and changes it in place where nothing else holds its memory.

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;
