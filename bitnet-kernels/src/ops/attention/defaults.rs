//! Cached attention in Burn primitives: right on any backend, slow, and the second truth that kernels are tested against.
//!
//! It copies and dequantizes the whole cache in each call. A key or value that is not finite reaches all queries of its
//! call, since masked products are still taken.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{IntDType, Shape};

use super::{Attended, AttentionShape, AttentionSpec, CacheFormat, codec};

/// See [`AttentionOps::cached_attention`](super::AttentionOps::cached_attention).
#[allow(clippy::too_many_arguments, reason = "one tensor each")]
pub fn cached_attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    keys: IntTensor<B>,
    key_scales: FloatTensor<B>,
    values: IntTensor<B>,
    value_scales: FloatTensor<B>,
    starts: IntTensor<B>,
    spec: AttentionSpec,
) -> Attended<B> {
    let shape = AttentionShape::of::<B>(&q, &keys);
    let (keys, key_scales) = store::<B>(keys, key_scales, k, &starts, shape, spec.format);
    let (values, value_scales) = store::<B>(values, value_scales, v, &starts, shape, spec.format);
    let k = codec::decode::<B>(
        keys.clone(),
        key_scales.clone(),
        spec.format,
        shape.head_dim,
    );
    let v = codec::decode::<B>(
        values.clone(),
        value_scales.clone(),
        spec.format,
        shape.head_dim,
    );

    // The queries of the heads that share a key/value head are rows of one matrix.
    let AttentionShape {
        batch,
        n_heads,
        n_kv_heads,
        seq,
        capacity,
        head_dim,
    } = shape;
    let group = shape.group();
    let q = B::float_mul_scalar(q, spec.scale.into());
    let q = B::float_reshape(q, Shape::new([batch, n_kv_heads, group * seq, head_dim]));
    let scores = B::float_matmul(q, B::float_swap_dims(k, 2, 3));
    let scores = B::float_reshape(scores, Shape::new([batch, n_heads, seq, capacity]));
    // Query i of row b sees the positions up to starts[b] + i.
    let bool = burn::backend::get_or_init_device_settings::<B>(&scores.device()).bool_dtype;
    let last = B::int_reshape(starts, Shape::new([batch, 1, 1, 1]));
    let last = B::int_add(
        B::int_expand(last, Shape::new([batch, 1, seq, capacity])),
        count::<B>(&scores, seq, 2, Shape::new([batch, 1, seq, capacity])),
    );
    let at = count::<B>(&scores, capacity, 3, Shape::new([batch, 1, seq, capacity]));
    let hidden = B::bool_expand(B::int_greater(at, last, bool), scores.shape());
    let scores = B::float_mask_fill(scores, hidden, f32::NEG_INFINITY.into());
    let largest = B::float_max_dim(scores.clone(), 3);
    let weights = B::float_exp(B::float_sub(
        scores.clone(),
        B::float_expand(largest, scores.shape()),
    ));
    let sum = B::float_expand(B::float_sum_dim(weights.clone(), 3), weights.shape());
    let weights = B::float_div(weights, sum);
    let weights = B::float_reshape(
        weights,
        Shape::new([batch, n_kv_heads, group * seq, capacity]),
    );
    let out = B::float_matmul(weights, v);
    let out = B::float_reshape(out, Shape::new([batch, n_heads, seq, head_dim]));
    (out, keys, key_scales, values, value_scales)
}

/// The cache with `new [batch, n_kv_heads, seq, head_dim]` in its place, taken position by position from either.
fn store<B: Backend>(
    words: IntTensor<B>,
    scales: FloatTensor<B>,
    new: FloatTensor<B>,
    starts: &IntTensor<B>,
    shape: AttentionShape,
    format: CacheFormat,
) -> (IntTensor<B>, FloatTensor<B>) {
    let (new_words, new_scales) = codec::encode::<B>(new.clone(), format);
    let rows = Shape::new([shape.batch, shape.n_kv_heads, shape.capacity]);
    let bool = burn::backend::get_or_init_device_settings::<B>(&new.device()).bool_dtype;
    // Position p holds new position p - start, if there is one.
    let start = B::int_reshape(starts.clone(), Shape::new([shape.batch, 1, 1]));
    let from = B::int_sub(
        count::<B>(&new, shape.capacity, 2, rows.clone()),
        B::int_expand(start, rows.clone()),
    );
    let seq = shape.seq as i32;
    let inside = B::bool_and(
        B::int_greater_equal_elem(from.clone(), 0i32.into(), bool),
        B::int_lower_elem(from.clone(), seq.into(), bool),
    );
    let from = B::int_clamp(from, 0i32.into(), (seq - 1).into());

    let full = words.shape();
    let column = Shape::new([shape.batch, shape.n_kv_heads, shape.capacity, 1]);
    let index = B::int_expand(B::int_reshape(from.clone(), column.clone()), full.clone());
    let mask = B::bool_expand(B::bool_reshape(inside.clone(), column), full);
    let words = B::int_mask_where(words, mask, B::int_gather(2, new_words, index));
    let scales = match new_scales {
        Some(new) => B::float_mask_where(scales, inside, B::float_gather(2, new, from)),
        None => scales,
    };
    (words, scales)
}

/// 0, 1, .. along dimension `dim` of `shape`, as i32.
fn count<B: Backend>(like: &FloatTensor<B>, len: usize, dim: usize, shape: Shape) -> IntTensor<B> {
    let mut line = vec![1; shape.num_dims()];
    line[dim] = len;
    let count = B::int_arange(0..len as i64, &like.device(), IntDType::I32);
    B::int_expand(B::int_reshape(count, Shape::from(line)), shape)
}
