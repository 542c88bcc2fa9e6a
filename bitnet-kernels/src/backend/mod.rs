//! [`TernaryOps`](crate::TernaryOps) on each backend: unwrap primitives, call a kernel, wrap. No arithmetic here.

mod attention;
mod autodiff;
#[cfg(feature = "cube")]
mod cube;
mod dense;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;
mod rows;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod slices;
mod vector;
