//! RMS norm in the order of operations of the reference: `w · (x · rsqrt(mean(x²) + ε))`, statistics in f32.
//!
//! Parameters are those of Burn's [`RmsNorm`]; only the arithmetic differs, because Burn's divides by the root. One ulp
//! decides on which side of a rounding boundary an 8-bit activation falls.

use burn::nn::RmsNorm;
use burn::tensor::Tensor;

/// Applies `norm` along the last dimension; the output has the dtype of `x`.
///
/// # Shapes
///
/// - x: `[.., d_model]`
/// - output: `[.., d_model]`
pub fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    bitnet_kernels::rms_norm(x, norm.gamma.val(), norm.epsilon)
}

/// `x + λ·(norm(x) − x)`: a norm on its way into a model that had none, from nothing at 0 to all of it at 1.
///
/// # Shapes
///
/// - x: `[.., d_model]`
/// - output: `[.., d_model]`
pub fn rms_norm_blended<const D: usize>(norm: &RmsNorm, x: Tensor<D>, lambda: f64) -> Tensor<D> {
    let normed = rms_norm(norm, x.clone());
    match lambda {
        1.0 => normed,
        _ => x.clone() + (normed - x) * lambda,
    }
}
