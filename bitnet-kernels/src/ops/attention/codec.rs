//! Words of a cache in Burn primitives: right on any backend, and the second truth that kernels are tested against.
//!
//! Burn has no operation that reinterprets bits, so fields of floats are made by arithmetic, exactly: halvings and
//! doublings bring a number into [1, 2), which leaves its significand and counts its exponent. f32 numbers below 2^-126
//! become zero here, and NaN and infinity, where the format has no place for them, NaN.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IntDType, Shape, Slice};

use super::CacheFormat;
use crate::quantize::{EPSILON, INT8_MAX};

/// Fields of an IEEE 754 format below its sign.
#[derive(Clone, Copy)]
struct Fields {
    /// Bits of the significand after the leading one.
    significand: u32,
    /// Bits of the exponent.
    exponent: u32,
}

const SINGLE: Fields = Fields {
    significand: 23,
    exponent: 8,
};
const HALF: Fields = Fields {
    significand: 10,
    exponent: 5,
};
/// Largest number in half precision.
const HALF_MAX: f32 = 65504.0;
/// Powers of two whose sum is the largest binary exponent of f32.
const STEPS: [i32; 7] = [64, 32, 16, 8, 4, 2, 1];

impl Fields {
    const fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    const fn bits(self) -> u32 {
        1 + self.exponent + self.significand
    }

    /// Bits of NaN.
    const fn nan(self) -> u32 {
        ((1 << (self.exponent + 1)) - 1) << (self.significand - 1)
    }
}

/// Words `[.., words]` of `x [.., head_dim]` in f32, and their scales `[..]` for a format that has them.
pub(super) fn encode<B: Backend>(
    x: FloatTensor<B>,
    format: CacheFormat,
) -> (IntTensor<B>, Option<FloatTensor<B>>) {
    let (codes, bits, scales) = match format {
        CacheFormat::F32 => (float_bits::<B>(x, SINGLE), SINGLE.bits(), None),
        CacheFormat::F16 => (float_bits::<B>(x, HALF), HALF.bits(), None),
        CacheFormat::Int8 => {
            let (codes, scales) = int8_bits::<B>(x);
            (codes, 8, Some(scales))
        }
    };
    (join::<B>(codes, bits, format), scales)
}

/// The numbers `[.., head_dim]` of `words [.., words]`, in f32.
pub(super) fn decode<B: Backend>(
    words: IntTensor<B>,
    scales: FloatTensor<B>,
    format: CacheFormat,
    head_dim: usize,
) -> FloatTensor<B> {
    let bits = u32::BITS / format.per_word() as u32;
    let codes = split::<B>(words, bits, format, head_dim);
    match format {
        CacheFormat::F32 => float_of::<B>(codes, SINGLE),
        CacheFormat::F16 => float_of::<B>(codes, HALF),
        CacheFormat::Int8 => {
            let shape = codes.shape();
            let q = real::<B>(codes);
            let negative = B::float_greater_elem(q.clone(), INT8_MAX.into(), bools::<B>(&q));
            let wrapped = B::float_sub_scalar(q.clone(), 256f32.into());
            let q = B::float_mask_where(q, negative, wrapped);
            let scales = B::float_reshape(scales, with_last(&shape, 1));
            B::float_mul(q, B::float_expand(scales, shape))
        }
    }
}

/// `q` as two's complement bytes, and `scale` without the last dimension.
fn int8_bits<B: Backend>(x: FloatTensor<B>) -> (IntTensor<B>, FloatTensor<B>) {
    let shape = x.shape();
    let last = shape.num_dims() - 1;
    let largest = B::float_max_dim(B::float_abs(x.clone()), last);
    // Some backends' max skips NaN; x·0 summed brings it (and infinity) back.
    let poison = B::float_sum_dim(B::float_mul_scalar(x.clone(), 0f32.into()), last);
    let largest = B::float_add(B::float_clamp_min(largest, EPSILON.into()), poison);
    let ones = B::float_ones(largest.shape(), &largest.device(), FloatDType::F32);
    let inverse = B::float_div(B::float_mul_scalar(ones, INT8_MAX.into()), largest.clone());
    let q = B::float_mul(x, B::float_expand(inverse, shape.clone()));
    let q = B::float_clamp(B::float_round(q), (-INT8_MAX).into(), INT8_MAX.into());
    let q = B::float_mask_fill(
        q.clone(),
        B::float_is_nan(q.clone(), bools::<B>(&q)),
        0f32.into(),
    );
    let negative = B::float_lower_elem(q.clone(), 0f32.into(), bools::<B>(&q));
    let wrapped = B::float_add_scalar(q.clone(), 256f32.into());
    let q = B::float_mask_where(q, negative, wrapped);
    let scales = B::float_mul_scalar(largest, (1.0 / INT8_MAX).into());
    let rows = Shape::from(shape.iter().copied().take(last).collect::<Vec<_>>());
    (whole::<B>(q), B::float_reshape(scales, rows))
}

/// The bits of `x` rounded to a format, ties to even.
fn float_bits<B: Backend>(x: FloatTensor<B>, fields: Fields) -> IntTensor<B> {
    let bool = bools::<B>(&x);
    let unit = |mask: BoolTensor<B>| B::bool_into_float(mask, FloatDType::F32);
    let negative = B::float_lower_elem(x.clone(), 0f32.into(), bool);
    let mut nan = B::float_is_nan(x.clone(), bool);
    let mut a = B::float_abs(x);
    if fields.exponent == HALF.exponent {
        a = B::float_clamp_max(a, HALF_MAX.into());
    } else {
        nan = B::bool_or(nan, B::float_greater_elem(a.clone(), f32::MAX.into(), bool));
    }
    a = B::float_mask_fill(a, nan.clone(), 0f32.into());
    let least = 2f32.powi(1 - fields.bias());
    let small = B::float_lower_elem(a.clone(), least.into(), bool);
    // A number below the smallest normal one is a multiple of 2^-24 in half precision.
    let subnormal = if fields.exponent == HALF.exponent {
        B::float_round(B::float_mul_scalar(a.clone(), 2f32.powi(24).into()))
    } else {
        B::float_mul_scalar(a.clone(), 0f32.into())
    };
    a = B::float_mask_fill(a, small.clone(), 1f32.into());

    // a · 2^-e in [1, 2); e + bias - 1 is never negative.
    let mut e = B::float_full(
        a.shape(),
        ((fields.bias() - 1) as f32).into(),
        &a.device(),
        FloatDType::F32,
    );
    for step in STEPS {
        let high = B::float_greater_equal_elem(a.clone(), 2f32.powi(step).into(), bool);
        let scaled = B::float_mul_scalar(a.clone(), 2f32.powi(-step).into());
        a = B::float_mask_where(a, high.clone(), scaled);
        e = B::float_add(e, B::float_mul_scalar(unit(high), (step as f32).into()));
    }
    for step in STEPS {
        let low = B::float_lower_elem(a.clone(), 2f32.powi(1 - step).into(), bool);
        let scaled = B::float_mul_scalar(a.clone(), 2f32.powi(step).into());
        a = B::float_mask_where(a, low.clone(), scaled);
        e = B::float_sub(e, B::float_mul_scalar(unit(low), (step as f32).into()));
    }
    let one = 2f32.powi(fields.significand as i32);
    let significand = whole::<B>(B::float_round(B::float_mul_scalar(a, one.into())));
    // The leading one of the significand, or two if it was rounded up, adds to the exponent.
    let exponent = B::bitwise_left_shift_scalar(whole::<B>(e), fields.significand.into());
    let magnitude = B::int_add(exponent, significand);
    let magnitude = B::int_mask_where(magnitude, small, whole::<B>(subnormal));
    let magnitude = B::int_mask_fill(magnitude, nan, fields.nan().into());
    let sign = B::bitwise_left_shift_scalar(
        B::bool_into_int(negative, IntDType::U32),
        (fields.bits() - 1).into(),
    );
    B::bitwise_or(magnitude, sign)
}

/// The numbers that bits of a format mean.
fn float_of<B: Backend>(codes: IntTensor<B>, fields: Fields) -> FloatTensor<B> {
    let field = |at: u32, bits: u32| {
        let field = B::bitwise_right_shift_scalar(codes.clone(), at.into());
        B::bitwise_and_scalar(field, ((1u32 << bits) - 1).into())
    };
    let significand = real::<B>(field(0, fields.significand));
    let exponent = real::<B>(field(fields.significand, fields.exponent));
    let bool = bools::<B>(&exponent);
    let normal = B::float_mul_scalar(
        significand.clone(),
        2f32.powi(-(fields.significand as i32)).into(),
    );
    let mut a = B::float_add_scalar(normal, 1f32.into());
    // 2^(exponent - bias) bit by bit, in an order that stays within f32: 2^-63 first, and the rest of the bias last.
    let start = fields.bias().min(63);
    a = B::float_mul_scalar(a, 2f32.powi(-start).into());
    for bit in 0..fields.exponent {
        let set = real::<B>(field(fields.significand + bit, 1));
        let set = B::float_equal_elem(set, 1f32.into(), bool);
        // 2^128 is no f32.
        let (halves, factor) = if bit == 7 { (2, 64) } else { (1, 1 << bit) };
        if bit == 7 {
            a = B::float_mul_scalar(a, 2f32.powi(start - fields.bias()).into());
        }
        for _ in 0..halves {
            let scaled = B::float_mul_scalar(a.clone(), 2f32.powi(factor).into());
            a = B::float_mask_where(a, set.clone(), scaled);
        }
    }
    let zero = B::float_equal_elem(exponent.clone(), 0f32.into(), bool);
    let unit = if fields.exponent == HALF.exponent {
        2f32.powi(-24)
    } else {
        0.0
    };
    a = B::float_mask_where(a, zero, B::float_mul_scalar(significand, unit.into()));
    let top = ((1u32 << fields.exponent) - 1) as f32;
    a = B::float_mask_fill(
        a,
        B::float_equal_elem(exponent, top.into(), bool),
        f32::NAN.into(),
    );
    let sign = real::<B>(field(fields.bits() - 1, 1));
    let sign = B::float_add_scalar(B::float_mul_scalar(sign, (-2f32).into()), 1f32.into());
    B::float_mul(a, sign)
}

/// Joins codes `[.., head_dim]` of `bits` bits to words, padding with zeros.
fn join<B: Backend>(codes: IntTensor<B>, bits: u32, format: CacheFormat) -> IntTensor<B> {
    let per_word = format.per_word();
    let shape = codes.shape();
    let head_dim = shape[shape.num_dims() - 1];
    let words = format.words(head_dim);
    let padded = if head_dim == words * per_word {
        codes
    } else {
        let full = with_last(&shape, words * per_word);
        let zeros = B::int_zeros(full, &codes.device(), IntDType::U32);
        B::int_slice_assign(zeros, &all(&shape), codes)
    };
    let mut parts = Vec::from_iter(shape.iter().copied());
    parts.pop();
    parts.extend([words, per_word]);
    let parts = Shape::from(parts);
    let padded = B::int_reshape(padded, parts.clone());
    (0..per_word)
        .map(|j| {
            let mut column = all(&parts);
            column[parts.num_dims() - 1] = Slice::from(j..j + 1);
            let part = B::int_slice(padded.clone(), &column);
            let part = B::int_reshape(part, with_last(&shape, words));
            B::bitwise_left_shift_scalar(part, (bits * j as u32).into())
        })
        .reduce(B::bitwise_or)
        .expect("a word holds a number at least")
}

/// Codes `[.., head_dim]` of words.
fn split<B: Backend>(
    words: IntTensor<B>,
    bits: u32,
    format: CacheFormat,
    head_dim: usize,
) -> IntTensor<B> {
    if bits == u32::BITS {
        return words;
    }
    let shape = words.shape();
    let last = shape.num_dims() - 1;
    let mut column = Vec::from_iter(shape.iter().copied());
    column.push(1);
    let columns = (0..format.per_word()).map(|j| {
        let part = B::bitwise_right_shift_scalar(words.clone(), (bits * j as u32).into());
        let part = B::bitwise_and_scalar(part, ((1u32 << bits) - 1).into());
        B::int_reshape(part, Shape::from(column.clone()))
    });
    let codes = B::int_cat(columns.collect(), last + 1);
    let codes = B::int_reshape(codes, with_last(&shape, shape[last] * format.per_word()));
    B::int_slice(codes, &all(&with_last(&shape, head_dim)))
}

fn with_last(shape: &Shape, size: usize) -> Shape {
    let mut shape = shape.clone();
    let last = shape.num_dims() - 1;
    shape[last] = size;
    shape
}

fn all(shape: &Shape) -> Vec<Slice> {
    shape.iter().map(|&size| Slice::from(0..size)).collect()
}

fn whole<B: Backend>(x: FloatTensor<B>) -> IntTensor<B> {
    B::float_into_int(x, IntDType::U32)
}

fn real<B: Backend>(x: IntTensor<B>) -> FloatTensor<B> {
    B::int_into_float(x, FloatDType::F32)
}

fn bools<B: Backend>(like: &FloatTensor<B>) -> burn::tensor::BoolDType {
    burn::backend::get_or_init_device_settings::<B>(&like.device()).bool_dtype
}
