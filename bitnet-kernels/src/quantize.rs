//! The quantizers of the BitNet papers: the only place where their formulas stand.
//!
//! On host slices they are exact to the operation order of the reference implementation, ties to even and scales in
//! reciprocal form included; on tensors they run through [`TernaryOps`](crate::TernaryOps). The kernels repeat the
//! formula for activations in their own registers and are tested against [`absmax`].

use burn::backend::Dispatch;
use burn::tensor::Tensor;
use half::bf16;
use serde::{Deserialize, Serialize};

use crate::ops::defaults;
use crate::packing::check_dimensions;
use crate::{Granularity, KernelError, PackedTernary, Scale};

/// Floor of both scales: keeps rows and matrices of zeros finite.
pub const EPSILON: f32 = 1e-5;
/// Largest magnitude of an int8 number with a scale of its own.
pub const INT8_MAX: f32 = 127.0;

/// How a float weight becomes ternary. The mean runs over the elements that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum WeightQuantizer {
    /// `m = max(mean|W|, 1e-5)`, `T = clamp(round(W · (1/m)), -1, 1)`, `W̃ = m·T`   (arXiv 2402.17764, eq. 1-3).
    #[default]
    AbsMean,
    /// `T = +1 if W > mean(W), else -1`, `W̃ = mean|W|·T`   (the 1-bit BitNet, arXiv 2310.11453, eq. 1-3).
    Sign,
}

/// What happens to a layer's input before the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ActivationQuantizer {
    /// Per token: `s = 127 / max(max|x|, 1e-5)`, `q = clamp(round(x·s), -128, 127)`; the product runs on integers.
    #[default]
    Int8,
    /// Per token: `s = 7 / max(max|x|, 1e-5)`, `q = clamp(round(x·s), -8, 7)`; the product runs on integers.
    ///
    /// The formula of [`Int8`](Self::Int8) with another largest code, so that outliers are kept. BitNet a4.8
    /// (arXiv 2411.04965) takes `s = √7 / mean|x|` instead, which cuts them off for finer steps near zero.
    Int4,
    /// Nothing: float activations times ternary weights (A16).
    None,
}

impl ActivationQuantizer {
    /// The quantizer with codes of so many bits, if there is one: 8 and 4.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            8 => Some(Self::Int8),
            4 => Some(Self::Int4),
            _ => None,
        }
    }

    /// The largest code `2^(bits-1) - 1`; the smallest is `-2^(bits-1)`. `None` if nothing is quantized.
    pub const fn limit(self) -> Option<i8> {
        match self {
            Self::Int8 => Some(127),
            Self::Int4 => Some(7),
            Self::None => None,
        }
    }
}

/// Rows of quantized activations with their reciprocal scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Rows {
    /// Quantized values, `[rows, d_in]`.
    pub values: Vec<i8>,
    /// `s = limit / max(max|x|, 1e-5)` of each row; 0 for a row with an infinity, NaN for a row with NaN.
    pub scale: Vec<f32>,
}

/// The reciprocal scale of one row: `limit / max(max|x|, 1e-5)`, with the [largest code](ActivationQuantizer::limit).
///
/// NaN wins over infinity and infinity over numbers, so a damaged row never gets an ordinary scale.
pub fn absmax_scale(row: &[f32], limit: i8) -> f32 {
    // The bit patterns of non-negative floats are ordered like the floats, with NaN above infinity.
    let largest = row
        .iter()
        .map(|x| x.abs().to_bits())
        .max()
        .map_or(0.0, f32::from_bits);
    if largest.is_nan() {
        f32::NAN
    } else {
        f32::from(limit) / largest.max(EPSILON)
    }
}

/// Quantizes rows of `d_in` activations, each with its own scale, to codes up to `limit`, see
/// [`ActivationQuantizer::limit`].
///
/// A row that holds NaN or infinity gets zeros and a scale of NaN or 0: whatever divides by that scale, as the epilogue
/// of a linear layer does, yields NaN for the whole row, as the float formula would.
///
/// # Panics
///
/// Panics if `d_in` is zero or does not divide the length of `x`.
pub fn absmax(x: &[f32], d_in: usize, limit: i8) -> Int8Rows {
    assert!(
        d_in > 0 && x.len().is_multiple_of(d_in),
        "{} values are no rows of {d_in}",
        x.len()
    );
    let most = f32::from(limit);
    let mut values = Vec::with_capacity(x.len());
    let mut scales = Vec::with_capacity(x.len() / d_in);
    for row in x.chunks_exact(d_in) {
        let scale = absmax_scale(row, limit);
        let healthy = scale > 0.0;
        values.extend(row.iter().map(|&x| {
            if healthy {
                (x * scale).round_ties_even().clamp(-most - 1.0, most) as i8
            } else {
                0
            }
        }));
        scales.push(scale);
    }
    Int8Rows {
        values,
        scale: scales,
    }
}

/// Quantizes a row-major `[d_out, d_in]` float matrix to ternary.
///
/// Means are accumulated in f64. Rounding is half to even, so `|W| = m/2` gives 0.
///
/// # Errors
///
/// [`KernelError::NonFinite`] with the position of the first NaN or infinity, and the errors of [`PackedTernary::new`].
pub fn ternarize(
    weight: &[f32],
    d_out: usize,
    d_in: usize,
    quantizer: WeightQuantizer,
    granularity: Granularity,
) -> Result<PackedTernary, KernelError> {
    check_weight(weight, d_out, d_in)?;
    granularity.checked()?;
    let (trits, scales) = ternarize_unchecked(weight, d_in, quantizer, granularity);
    PackedTernary::from_trits(&trits, Scale::from_values(granularity, scales), d_out, d_in)
}

/// Quantizes as [`WeightQuantizer::AbsMean`] with every step rounded to bf16, as the tools of some published checkpoints
/// do: `s = 1 / max(mean|W|, 1e-5)`, `T = clamp(round(W · s), -1, 1)`, and the scale is `1 / s` in f32.
///
/// Differs from [`ternarize`] in about one trit of a thousand. The mean itself is accumulated exactly and rounded once.
///
/// # Errors
///
/// As [`ternarize`].
pub fn ternarize_bf16(
    weight: &[f32],
    d_out: usize,
    d_in: usize,
) -> Result<PackedTernary, KernelError> {
    check_weight(weight, d_out, d_in)?;
    let round = |value: f32| bf16::from_f32(value).to_f32();
    let sum: f64 = weight.iter().map(|&w| f64::from(round(w).abs())).sum();
    let mean = round((sum / weight.len() as f64) as f32);
    let inverse = round(1.0 / mean.max(round(EPSILON)));
    let trits: Vec<i8> = weight
        .iter()
        .map(|&w| round(round(w) * inverse).round_ties_even().clamp(-1.0, 1.0) as i8)
        .collect();
    PackedTernary::from_trits(&trits, Scale::Tensor(1.0 / inverse), d_out, d_in)
}

/// Proves that `weight` is a `d_out` x `d_in` matrix of finite numbers.
fn check_weight(weight: &[f32], d_out: usize, d_in: usize) -> Result<(), KernelError> {
    check_dimensions(d_out, d_in)?;
    if weight.len() != d_out * d_in {
        let (found, expected) = (weight.len(), d_out * d_in);
        return Err(KernelError::Length {
            what: "float weight",
            unit: "values",
            found,
            expected,
            d_out,
            d_in,
        });
    }
    if let Some(index) = weight.iter().position(|w| !w.is_finite()) {
        return Err(KernelError::NonFinite {
            what: "float weight",
            index,
            value: weight[index],
        });
    }
    Ok(())
}

/// Trits and scales of a checked shape. Non-finite weights yield trits of 0 and a non-finite scale, so that a product
/// with them is NaN.
pub(crate) fn ternarize_unchecked(
    weight: &[f32],
    d_in: usize,
    quantizer: WeightQuantizer,
    granularity: Granularity,
) -> (Vec<i8>, Vec<f32>) {
    let mut trits = Vec::with_capacity(weight.len());
    let mut scales = Vec::new();
    let mut block = |block: &[f32]| scales.push(ternarize_block(block, quantizer, &mut trits));
    match granularity {
        Granularity::Tensor => block(weight),
        Granularity::Row => weight.chunks_exact(d_in).for_each(block),
        Granularity::Group(size) => {
            weight
                .chunks_exact(d_in)
                .for_each(|row| row.chunks(size).for_each(&mut block));
        }
    }
    (trits, scales)
}

/// Appends the trits of the elements that share a scale, and returns the scale.
fn ternarize_block(block: &[f32], quantizer: WeightQuantizer, trits: &mut Vec<i8>) -> f32 {
    let mean = |of: fn(f32) -> f32| {
        (block.iter().map(|&w| f64::from(of(w))).sum::<f64>() / block.len() as f64) as f32
    };
    let absmean = mean(f32::abs);
    match quantizer {
        _ if !absmean.is_finite() => {
            trits.resize(trits.len() + block.len(), 0);
            absmean
        }
        WeightQuantizer::AbsMean => {
            let scale = absmean.max(EPSILON);
            let inverse = 1.0 / scale;
            trits.extend(
                block
                    .iter()
                    .map(|w| (w * inverse).round_ties_even().clamp(-1.0, 1.0) as i8),
            );
            scale
        }
        WeightQuantizer::Sign => {
            let centre = mean(|w| w);
            trits.extend(block.iter().map(|&w| if w > centre { 1 } else { -1 }));
            absmean
        }
    }
}

/// `x̃ = q(x) / s`: the values that a product sees of its input, in the dtype of `x`. Not differentiable.
///
/// # Shapes
///
/// - x: `[.., d_in]`, one scale per row of the last dimension
pub fn fake_quantize<const D: usize>(x: Tensor<D>, activations: ActivationQuantizer) -> Tensor<D> {
    let x = x.detach();
    let Some(limit) = activations.limit() else {
        return x;
    };
    Tensor::from_dispatch(defaults::fake_quantize::<Dispatch>(
        x.into_dispatch(),
        limit,
    ))
}
