//! The table's operations in Burn primitives: right on any backend, slow, and the second truth that kernels are tested
//! against.
//!
//! Floats are put together from the fields of their bits, exactly, since Burn has no cast of bits. Products take a block of
//! rows at a time, so the whole matrix is never there in floats.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IntDType, Scalar, Shape, Slice, TensorData};

use super::{TableSpec, rows_shape};
use crate::ops::defaults::{bool_dtype, full, mul, narrow, spread, widen};
use crate::ops::{forward_shape, rows, with_last};
use crate::{Granularity, TableFormat};

/// Numbers that are floats at a time: 4 MiB.
const BLOCK: usize = 1 << 20;

/// See [`TableOps::table_rows`](super::TableOps::table_rows).
pub fn table_rows<B: Backend>(
    ids: IntTensor<B>,
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TableSpec,
) -> FloatTensor<B> {
    let shape = rows_shape(&ids.shape(), &spec);
    let (count, rows) = (ids.shape().num_elements(), codes.shape()[0]);
    let ids = B::int_cast(B::int_reshape(ids, Shape::new([count])), IntDType::I32);
    let bools = bool_dtype::<B>(&scale);
    let outside = B::bool_or(
        B::int_lower_elem(ids.clone(), Scalar::from(0i32), bools),
        B::int_greater_equal_elem(ids.clone(), Scalar::from(rows as i32), bools),
    );
    let ids = B::int_mask_fill(ids, outside.clone(), Scalar::from(0i32));
    let scale = match spec.format.granularity() {
        Granularity::Tensor => scale,
        Granularity::Row => B::float_select(scale, 0, ids.clone()),
        Granularity::Group(_) => {
            let groups = scale.shape()[0] / rows;
            let scale = B::float_reshape(scale, Shape::new([rows, groups]));
            let scale = B::float_select(scale, 0, ids.clone());
            B::float_reshape(scale, Shape::new([count * groups]))
        }
    };
    let numbers = dequantize::<B>(B::int_select(codes, 0, ids), scale, spec);
    let outside = B::bool_expand(
        B::bool_reshape(outside, Shape::new([count, 1])),
        numbers.shape(),
    );
    let numbers = B::float_mask_fill(numbers, outside, Scalar::from(f32::NAN));
    B::float_reshape(numbers, shape)
}

/// See [`TableOps::table_linear`](super::TableOps::table_linear).
pub fn table_linear<B: Backend>(
    x: FloatTensor<B>,
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TableSpec,
) -> FloatTensor<B> {
    let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
    let x = B::float_reshape(widen::<B>(x), Shape::new([rows(&shape), spec.columns]));
    let blocks = blocks(codes.shape()[0], spec.columns).map(|block| {
        let (codes, scale) = rows_of::<B>(&codes, &scale, spec, block.clone());
        match spec.format.granularity() {
            Granularity::Tensor | Granularity::Row => {
                let weight = decode::<B>(codes, spec);
                let y = B::float_matmul(x.clone(), B::float_transpose(weight));
                let count = scale.shape()[0];
                mul::<B>(y, B::float_reshape(scale, Shape::new([1, count])))
            }
            Granularity::Group(_) => {
                let weight = dequantize::<B>(codes, scale, spec);
                B::float_matmul(x.clone(), B::float_transpose(weight))
            }
        }
    });
    let y = B::float_cat(blocks.collect(), 1);
    narrow::<B>(B::float_reshape(y, shape), dtype)
}

/// See [`TableOps::table_linear_dx`](super::TableOps::table_linear_dx).
pub fn table_linear_dx<B: Backend>(
    dy: FloatTensor<B>,
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TableSpec,
) -> FloatTensor<B> {
    let (dtype, shape) = (dy.dtype(), with_last(&dy.shape(), spec.columns));
    let (count, table_rows) = (rows(&shape), codes.shape()[0]);
    let dy = B::float_reshape(widen::<B>(dy), Shape::new([count, table_rows]));
    let dx = blocks(table_rows, spec.columns)
        .map(|block| {
            let (codes, scale) = rows_of::<B>(&codes, &scale, spec, block.clone());
            let part = B::float_slice(dy.clone(), &[Slice::from(0..count), Slice::from(block)]);
            B::float_matmul(part, dequantize::<B>(codes, scale, spec))
        })
        .reduce(B::float_add)
        .expect("a table has rows");
    narrow::<B>(B::float_reshape(dx, shape), dtype)
}

/// Ranges of rows that make one block each.
fn blocks(rows: usize, columns: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (BLOCK / columns).max(1);
    (0..rows)
        .step_by(step)
        .map(move |start| start..(start + step).min(rows))
}

/// Codes and scales of some rows.
fn rows_of<B: Backend>(
    codes: &IntTensor<B>,
    scale: &FloatTensor<B>,
    spec: TableSpec,
    block: Range<usize>,
) -> (IntTensor<B>, FloatTensor<B>) {
    let [rows, width] = codes.shape().dims();
    if block == (0..rows) {
        return (codes.clone(), scale.clone());
    }
    let per_row = match spec.format.granularity() {
        Granularity::Tensor => 0,
        Granularity::Row | Granularity::Group(_) => scale.shape()[0] / rows,
    };
    let scale = match per_row {
        0 => scale.clone(),
        _ => {
            let range = block.start * per_row..block.end * per_row;
            B::float_slice(scale.clone(), &[Slice::from(range)])
        }
    };
    let block = [Slice::from(block), Slice::from(0..width)];
    (B::int_slice(codes.clone(), &block), scale)
}

/// The float matrix `scale · code`, `[rows, columns]` in f32.
pub(super) fn dequantize<B: Backend>(
    codes: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TableSpec,
) -> FloatTensor<B> {
    let rows = codes.shape()[0];
    let scale = spread::<B>(scale, spec.format.granularity(), rows, spec.columns);
    mul::<B>(decode::<B>(codes, spec), scale)
}

/// The numbers without their scales.
fn decode<B: Backend>(codes: IntTensor<B>, spec: TableSpec) -> FloatTensor<B> {
    let bits = unpack::<B>(codes, spec);
    match spec.format {
        TableFormat::F32 => floats::<B>(bits, 8, 23),
        TableFormat::F16 => floats::<B>(bits, 5, 10),
        TableFormat::BF16 => floats::<B>(bits, 8, 7),
        TableFormat::Int8 => integers::<B>(bits, 0x80),
        TableFormat::Int4 => integers::<B>(bits, 0x8),
    }
}

/// The bits of each number, `[rows, columns]`.
fn unpack<B: Backend>(codes: IntTensor<B>, spec: TableSpec) -> IntTensor<B> {
    let [rows, width] = codes.shape().dims();
    let per_word = spec.format.numbers_per_word();
    if per_word == 1 {
        return codes;
    }
    let bits = 32 / per_word;
    let numbers = (0..per_word).map(|i| {
        let number = field::<B>(&codes, i * bits, bits);
        B::int_reshape(number, Shape::new([rows, width, 1]))
    });
    let numbers = B::int_reshape(
        B::int_cat(numbers.collect(), 2),
        Shape::new([rows, width * per_word]),
    );
    B::int_slice(
        numbers,
        &[Slice::from(0..rows), Slice::from(0..spec.columns)],
    )
}

/// Some bits of each word.
fn field<B: Backend>(words: &IntTensor<B>, from: usize, bits: usize) -> IntTensor<B> {
    let words = B::bitwise_right_shift_scalar(words.clone(), Scalar::from(from as u32));
    B::bitwise_and_scalar(words, Scalar::from((1u32 << bits) - 1))
}

/// Two's complement: adding the sign bit's weight makes the number unsigned.
fn integers<B: Backend>(bits: IntTensor<B>, sign: u32) -> FloatTensor<B> {
    let biased = B::bitwise_xor_scalar(bits, Scalar::from(sign));
    let biased = B::int_into_float(biased, FloatDType::F32);
    B::float_sub_scalar(biased, Scalar::from(sign as f32))
}

/// (-1)^s · (1 + m / 2^mantissa) · 2^(e - bias), or without the 1 and with e = 1 where e = 0.
fn floats<B: Backend>(words: IntTensor<B>, exponent: usize, mantissa: usize) -> FloatTensor<B> {
    let shape = words.shape();
    let bias = (1 << (exponent - 1)) - 1;
    // 1 and 2^(e - bias) for each e; the powers of all finite numbers are normal floats.
    let values = (0..1 << exponent).flat_map(|e: i32| match e {
        0 => [0.0, 2f32.powi(1 - bias)],
        _ => [1.0, 2f32.powi(e - bias)],
    });
    let powers = TensorData::new(values.collect::<Vec<_>>(), [1 << exponent, 2]);
    let e = field::<B>(&words, mantissa, exponent);
    let e = B::int_reshape(e, Shape::new([shape.num_elements()]));
    let powers = B::float_from_data(powers, &words.device());
    let parts = B::float_select(powers, 0, B::int_cast(e, IntDType::I32));
    let part = |at: usize| {
        let part = [
            Slice::from(0..shape.num_elements()),
            Slice::from(at..at + 1),
        ];
        B::float_reshape(B::float_slice(parts.clone(), &part), shape.clone())
    };
    let m = B::int_into_float(field::<B>(&words, 0, mantissa), FloatDType::F32);
    let m = B::float_mul_scalar(m, Scalar::from(2f32.powi(-(mantissa as i32))));
    let magnitude = B::float_mul(B::float_add(m, part(0)), part(1));
    let s = field::<B>(&words, mantissa + exponent, 1);
    let s = B::float_mul_scalar(B::int_into_float(s, FloatDType::F32), Scalar::from(-2.0f32));
    let one = full::<B>(&magnitude, shape, 1.0);
    B::float_mul(magnitude, B::float_add(s, one))
}
