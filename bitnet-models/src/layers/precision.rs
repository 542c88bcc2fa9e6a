//! Mixed precision: products in a narrower number format while training; parameters, sums over layers, norms and softmax
//! stay f32.
//!
//! Invariant: without autodiff nothing is narrowed, so what is measured is what inference computes.

use burn::tensor::{DType, Tensor};

/// A factor in the format of products, if there is one and this is training.
pub(super) fn narrowed<const D: usize>(x: Tensor<D>, products: Option<DType>) -> Tensor<D> {
    match products {
        Some(dtype) if x.is_autodiff() => x.cast(dtype),
        _ => x,
    }
}
