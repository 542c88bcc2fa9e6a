//! The operations in Burn primitives: right on any backend, and the second truth that kernels are tested against.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{IndexingUpdateOp, IntDType, Scalar, Shape};

use crate::ops::defaults::{bool_dtype, full, mul, narrow, widen};

/// See [`RowOps::causal_softmax`](super::RowOps::causal_softmax).
pub fn causal_softmax<B: Backend>(scores: FloatTensor<B>, scale: f32) -> FloatTensor<B> {
    let (dtype, shape) = (scores.dtype(), scores.shape());
    let [batch, heads, rows, seq] = shape.dims();
    let by_head = Shape::new([batch, heads, rows / seq, seq, seq]);
    let scores = B::float_mul_scalar(widen::<B>(scores), Scalar::from(scale));
    let scores = B::float_reshape(scores, by_head.clone());
    let count = |shape| {
        let positions = B::int_arange(0..seq as i64, &scores.device(), IntDType::I32);
        B::int_expand(B::int_reshape(positions, shape), by_head.clone())
    };
    let column = count(Shape::new([1, 1, 1, 1, seq]));
    let query = count(Shape::new([1, 1, 1, seq, 1]));
    let future = B::int_greater(column, query, bool_dtype::<B>(&scores));
    let scores = B::float_mask_fill(scores, future, f32::NEG_INFINITY.into());
    let largest = B::float_expand(B::float_max_dim(scores.clone(), 4), by_head.clone());
    let weights = B::float_exp(B::float_sub(scores, largest));
    let sum = B::float_expand(B::float_sum_dim(weights.clone(), 4), by_head);
    let weights = B::float_div(weights, sum);
    narrow::<B>(B::float_reshape(weights, shape), dtype)
}

/// See [`RowOps::causal_softmax_dx`](super::RowOps::causal_softmax_dx).
pub fn causal_softmax_dx<B: Backend>(
    weights: FloatTensor<B>,
    dweights: FloatTensor<B>,
    scale: f32,
) -> FloatTensor<B> {
    let dtype = dweights.dtype();
    let (weights, dweights) = (widen::<B>(weights), widen::<B>(dweights));
    let product = B::float_mul(weights.clone(), dweights);
    let sum = B::float_sum_dim(product.clone(), 3);
    let dscores = B::float_sub(product, mul::<B>(weights, sum));
    narrow::<B>(B::float_mul_scalar(dscores, Scalar::from(scale)), dtype)
}

/// See [`RowOps::cross_entropy`](super::RowOps::cross_entropy).
pub fn cross_entropy<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let logits = widen::<B>(logits);
    let [n, _] = logits.shape().dims();
    let largest = B::float_max_dim(logits.clone(), 1);
    let above = B::float_sub(
        logits.clone(),
        B::float_expand(largest.clone(), logits.shape()),
    );
    let sum = B::float_sum_dim(B::float_exp(above), 1);
    let log_sums = B::float_add(largest, B::float_log(sum));
    let picked = B::float_gather(1, logits, B::int_reshape(targets, Shape::new([n, 1])));
    let flat = |column| B::float_reshape(column, Shape::new([n]));
    let losses = B::float_sub(log_sums.clone(), picked);
    (flat(losses), flat(log_sums))
}

/// See [`RowOps::cross_entropy_dx`](super::RowOps::cross_entropy_dx).
pub fn cross_entropy_dx<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    log_sums: FloatTensor<B>,
    dlosses: FloatTensor<B>,
) -> FloatTensor<B> {
    let (dtype, shape) = (logits.dtype(), logits.shape());
    let column = Shape::new([shape[0], 1]);
    let log_sums = B::float_expand(B::float_reshape(log_sums, column.clone()), shape.clone());
    let softmax = B::float_exp(B::float_sub(widen::<B>(logits), log_sums));
    let minus_one = full::<B>(&softmax, column.clone(), -1.0);
    let targets = B::int_reshape(targets, column.clone());
    let dlogits = B::float_scatter(1, softmax, targets, minus_one, IndexingUpdateOp::Add);
    narrow::<B>(mul::<B>(dlogits, B::float_reshape(dlosses, column)), dtype)
}

/// See [`RowOps::embedding_dx`](super::RowOps::embedding_dx).
pub fn embedding_dx<B: Backend>(
    ids: IntTensor<B>,
    dy: FloatTensor<B>,
    count: usize,
) -> FloatTensor<B> {
    let (device, dtype) = (dy.device(), dy.dtype());
    let table = B::float_zeros(Shape::new([count, dy.shape()[1]]), &device, dtype.into());
    B::float_select_assign(table, 0, ids, dy, IndexingUpdateOp::Add)
}
