//! The operations in Burn primitives: right on any backend, slow, and the second truth that kernels are tested against.
//!
//! Integer sums are exact here too: values and partial sums of int8 x ternary stay below 2^24 for d_in < 2^17, so f32
//! products of any order are exact. Beyond that they are f32 sums.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IntDType, Scalar, Shape, Slice};

use super::{TernarySpec, forward_shape, rows, with_last};
use crate::packing::words::{CODES_PER_WORD, shift, words_per_row};
use crate::quantize::EPSILON;
use crate::{Granularity, WeightQuantizer};

/// See [`TernaryOps::ternary_linear`](super::TernaryOps::ternary_linear).
pub fn ternary_linear<B: Backend>(
    x: FloatTensor<B>,
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TernarySpec,
) -> FloatTensor<B> {
    let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
    let x = B::float_reshape(widen::<B>(x), Shape::new([rows(&shape), spec.d_in]));
    let (x, x_scale) = match spec.activations.limit() {
        Some(limit) => {
            let (q, scale) = absmax::<B>(x, limit);
            (q, Some(scale))
        }
        None => (x, None),
    };
    let product = |weight| {
        let y = B::float_matmul(x, B::float_transpose(weight));
        match x_scale {
            Some(x_scale) => div::<B>(y, x_scale),
            None => y,
        }
    };
    let y = match spec.granularity {
        // A product of integers, then the scale: exact sums.
        Granularity::Tensor | Granularity::Row => {
            let y = product(trits::<B>(codes, spec.d_in));
            let count = scale.shape()[0];
            mul::<B>(y, B::float_reshape(scale, Shape::new([1, count])))
        }
        Granularity::Group(_) => {
            product(dequantize::<B>(codes, scale, spec.granularity, spec.d_in))
        }
    };
    narrow::<B>(B::float_reshape(y, shape), dtype)
}

/// See [`TernaryOps::ternary_linear_dx`](super::TernaryOps::ternary_linear_dx).
pub fn ternary_linear_dx<B: Backend>(
    dy: FloatTensor<B>,
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TernarySpec,
) -> FloatTensor<B> {
    let (dtype, shape) = (dy.dtype(), with_last(&dy.shape(), spec.d_in));
    let d_out = codes.shape()[0];
    let dy = B::float_reshape(widen::<B>(dy), Shape::new([rows(&shape), d_out]));
    let weight = dequantize::<B>(codes, scale, spec.granularity, spec.d_in);
    narrow::<B>(B::float_reshape(B::float_matmul(dy, weight), shape), dtype)
}

/// See [`TernaryOps::ternary_linear_dw`](super::TernaryOps::ternary_linear_dw).
pub fn ternary_linear_dw<B: Backend>(
    dy: FloatTensor<B>,
    x: FloatTensor<B>,
    spec: TernarySpec,
) -> FloatTensor<B> {
    let (rows, d_out) = (rows(&dy.shape()), dy.shape()[dy.shape().num_dims() - 1]);
    let seen = match spec.activations.limit() {
        Some(limit) => fake_quantize::<B>(x, limit),
        None => x,
    };
    let seen = B::float_reshape(seen, Shape::new([rows, spec.d_in]));
    let dy = B::float_reshape(dy, Shape::new([rows, d_out]));
    B::float_matmul(B::float_transpose(dy), seen)
}

/// See [`TernaryOps::ternarize`](super::TernaryOps::ternarize).
pub fn ternarize<B: Backend>(
    latent: FloatTensor<B>,
    quantizer: WeightQuantizer,
    granularity: Granularity,
) -> (IntTensor<B>, FloatTensor<B>) {
    let [d_out, d_in] = latent.shape().dims();
    let latent = widen::<B>(latent);
    let means = block_means::<B>(latent.clone(), quantizer, granularity);
    let spread = |values| spread::<B>(values, granularity, d_out, d_in);
    let trits = match quantizer {
        WeightQuantizer::AbsMean => {
            let ones = full::<B>(&means.scale, means.scale.shape(), 1.0);
            let inverse = B::float_div(ones, means.scale.clone());
            let scaled = mul::<B>(latent, spread(inverse));
            B::float_clamp(
                B::float_round(scaled),
                Scalar::from(-1.0),
                Scalar::from(1.0),
            )
        }
        WeightQuantizer::Sign => {
            let centre = B::float_expand(spread(means.centre), Shape::new([d_out, d_in]));
            let above = B::float_greater(latent, centre, bool_dtype::<B>(&means.scale));
            let above = B::bool_into_float(above, FloatDType::F32);
            B::float_sub_scalar(
                B::float_mul_scalar(above, Scalar::from(2.0)),
                Scalar::from(1.0),
            )
        }
    };
    let count = granularity.count(d_out, d_in);
    (
        pack::<B>(trits, d_out, d_in),
        B::float_reshape(means.scale, Shape::new([count])),
    )
}

/// Means over the elements that share a scale, one entry per scale, as `[1, 1]`, `[d_out, 1]` or `[d_out, groups]`.
pub(crate) struct BlockMeans<B: Backend> {
    /// `max(mean|W|, 1e-5)`, without the floor for [`WeightQuantizer::Sign`].
    pub scale: FloatTensor<B>,
    /// `mean(W)` for [`WeightQuantizer::Sign`], else anything.
    pub centre: FloatTensor<B>,
}

/// Means of `latent [d_out, d_in]` in f32.
pub(crate) fn block_means<B: Backend>(
    latent: FloatTensor<B>,
    quantizer: WeightQuantizer,
    granularity: Granularity,
) -> BlockMeans<B> {
    let [d_out, d_in] = latent.shape().dims();
    let latent = widen::<B>(latent);
    let mean = |values: FloatTensor<B>| match granularity {
        // Row by row first: one long sum keeps a GPU waiting for a single multiprocessor.
        Granularity::Tensor => B::float_mean_dim(B::float_mean_dim(values, 1), 0),
        Granularity::Row => B::float_mean_dim(values, 1),
        Granularity::Group(size) => {
            let groups = d_in.div_ceil(size);
            let padded = pad_columns::<B>(values, groups * size, 0.0);
            let blocks = B::float_reshape(padded, Shape::new([d_out, groups, size]));
            let sums = B::float_reshape(B::float_sum_dim(blocks, 2), Shape::new([d_out, groups]));
            // The last group of a row may be short.
            let sizes = (0..groups)
                .map(|g| (d_in - g * size).min(size) as f32)
                .collect::<Vec<_>>();
            let device = sums.device();
            let sizes =
                B::float_from_data(burn::tensor::TensorData::new(sizes, [1, groups]), &device);
            div::<B>(sums, sizes)
        }
    };
    let absmean = mean(B::float_abs(latent.clone()));
    match quantizer {
        WeightQuantizer::AbsMean => {
            let scale = B::float_clamp_min(absmean, Scalar::from(EPSILON));
            BlockMeans {
                centre: scale.clone(),
                scale,
            }
        }
        WeightQuantizer::Sign => BlockMeans {
            centre: mean(latent),
            scale: absmean,
        },
    }
}

/// `q`, at most `limit`, and reciprocal scale `s [rows, 1]` of `x [rows, d_in]` in f32.
fn absmax<B: Backend>(x: FloatTensor<B>, limit: i8) -> (FloatTensor<B>, FloatTensor<B>) {
    let most = f32::from(limit);
    let largest = B::float_max_dim(B::float_abs(x.clone()), 1);
    // Some backends' max skips NaN; x·0 summed brings it (and infinity) back.
    let poison = B::float_sum_dim(B::float_mul_scalar(x.clone(), Scalar::from(0.0)), 1);
    let largest = B::float_add(B::float_clamp_min(largest, Scalar::from(EPSILON)), poison);
    let scale = B::float_div(full::<B>(&largest, largest.shape(), most), largest);
    let q = B::float_round(mul::<B>(x, scale.clone()));
    (
        B::float_clamp(q, Scalar::from(-most - 1.0), Scalar::from(most)),
        scale,
    )
}

/// `x̃ = q(x) / s`, in the dtype of `x`: what the product saw of its input.
pub(crate) fn fake_quantize<B: Backend>(x: FloatTensor<B>, limit: i8) -> FloatTensor<B> {
    let (dtype, shape) = (x.dtype(), x.shape());
    let d_in = shape[shape.num_dims() - 1];
    let x = B::float_reshape(widen::<B>(x), Shape::new([rows(&shape), d_in]));
    let (q, scale) = absmax::<B>(x, limit);
    narrow::<B>(B::float_reshape(div::<B>(q, scale), shape), dtype)
}

/// Unpacks words to a float matrix `[d_out, d_in]` of -1, 0, 1.
fn trits<B: Backend>(codes: IntTensor<B>, d_in: usize) -> FloatTensor<B> {
    let [d_out, width] = codes.shape().dims();
    let columns = (0..CODES_PER_WORD).map(|l| {
        let code = B::bitwise_right_shift_scalar(codes.clone(), Scalar::from(shift(l) as u32));
        let code = B::bitwise_and_scalar(code, Scalar::from(3u32));
        B::int_reshape(code, Shape::new([d_out, width, 1]))
    });
    let codes = B::int_cat(columns.collect(), 2);
    let codes = B::int_reshape(codes, Shape::new([d_out, width * CODES_PER_WORD]));
    let codes = B::int_slice(codes, &[Slice::from(0..d_out), Slice::from(0..d_in)]);
    B::float_sub_scalar(B::int_into_float(codes, FloatDType::F32), Scalar::from(1.0))
}

/// Packs a float matrix of -1, 0, 1 into words, padding with zero trits.
fn pack<B: Backend>(trits: FloatTensor<B>, d_out: usize, d_in: usize) -> IntTensor<B> {
    let width = words_per_row(d_in);
    let codes = B::float_add_scalar(
        pad_columns::<B>(trits, width * CODES_PER_WORD, 0.0),
        Scalar::from(1.0),
    );
    let codes = B::float_into_int(codes, IntDType::U32);
    let codes = B::int_reshape(codes, Shape::new([d_out, width, CODES_PER_WORD]));
    (0..CODES_PER_WORD)
        .map(|l| {
            let column = [
                Slice::from(0..d_out),
                Slice::from(0..width),
                Slice::from(l..l + 1),
            ];
            let code = B::int_reshape(
                B::int_slice(codes.clone(), &column),
                Shape::new([d_out, width]),
            );
            B::bitwise_left_shift_scalar(code, Scalar::from(shift(l) as u32))
        })
        .reduce(B::bitwise_or)
        .expect("a word has sixteen codes")
}

/// The float matrix `scale·T`, `[d_out, d_in]` in f32.
pub(super) fn dequantize<B: Backend>(
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    granularity: Granularity,
    d_in: usize,
) -> FloatTensor<B> {
    let d_out = codes.shape()[0];
    let scale = spread::<B>(scale, granularity, d_out, d_in);
    mul::<B>(trits::<B>(codes, d_in), scale)
}

/// Scales as a matrix that broadcasts against `[d_out, d_in]`.
pub(super) fn spread<B: Backend>(
    scale: FloatTensor<B>,
    granularity: Granularity,
    d_out: usize,
    d_in: usize,
) -> FloatTensor<B> {
    match granularity {
        Granularity::Tensor => B::float_reshape(scale, Shape::new([1, 1])),
        Granularity::Row => B::float_reshape(scale, Shape::new([d_out, 1])),
        Granularity::Group(size) => {
            let groups = d_in.div_ceil(size);
            let scale = B::float_reshape(scale, Shape::new([d_out, groups, 1]));
            let scale = B::float_expand(scale, Shape::new([d_out, groups, size]));
            let scale = B::float_reshape(scale, Shape::new([d_out, groups * size]));
            B::float_slice(scale, &[Slice::from(0..d_out), Slice::from(0..d_in)])
        }
    }
}

fn pad_columns<B: Backend>(values: FloatTensor<B>, width: usize, with: f32) -> FloatTensor<B> {
    let [rows, columns] = values.shape().dims();
    if columns == width {
        return values;
    }
    let padded = full::<B>(&values, Shape::new([rows, width]), with);
    B::float_slice_assign(
        padded,
        &[Slice::from(0..rows), Slice::from(0..columns)],
        values,
    )
}

pub(super) fn full<B: Backend>(like: &FloatTensor<B>, shape: Shape, value: f32) -> FloatTensor<B> {
    B::float_full(shape, Scalar::from(value), &like.device(), FloatDType::F32)
}

/// `lhs · rhs`, `rhs` broadcast to the shape of `lhs`.
pub(super) fn mul<B: Backend>(lhs: FloatTensor<B>, rhs: FloatTensor<B>) -> FloatTensor<B> {
    let shape = lhs.shape();
    B::float_mul(lhs, B::float_expand(rhs, shape))
}

/// `lhs / rhs`, `rhs` broadcast to the shape of `lhs`.
fn div<B: Backend>(lhs: FloatTensor<B>, rhs: FloatTensor<B>) -> FloatTensor<B> {
    let shape = lhs.shape();
    B::float_div(lhs, B::float_expand(rhs, shape))
}

pub(super) fn widen<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    if x.dtype() == DType::F32 {
        x
    } else {
        B::float_cast(x, FloatDType::F32)
    }
}

/// A tensor in number format `dtype`.
pub(crate) fn in_dtype<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => B::float_cast(tensor, dtype.into()),
    }
}

pub(super) fn narrow<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if dtype == DType::F32 {
        x
    } else {
        B::float_cast(x, dtype.into())
    }
}

pub(super) fn bool_dtype<B: Backend>(like: &FloatTensor<B>) -> burn::tensor::BoolDType {
    burn::backend::get_or_init_device_settings::<B>(&like.device()).bool_dtype
}
