//! `TernaryTensor`: a packed ternary matrix on a device.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{TernarySpec, defaults};
use crate::packing::words::{CODES_PER_WORD, words_per_row};
use crate::{ActivationQuantizer, Granularity, KernelError, PackedTernary, Scale};

/// A ternary matrix `[d_out, d_in]` on a device: 2 bits per weight in memory, scales in f32.
///
/// Shapes and dtypes are proven on construction. Values are proven where they enter, in [`PackedTernary`].
#[derive(Debug, Clone)]
pub struct TernaryTensor {
    codes: Tensor<2, Int>,
    scale: Tensor<1>,
    d_in: usize,
    granularity: Granularity,
}

impl TernaryTensor {
    /// Moves a packed matrix to a device.
    pub fn from_packed(packed: PackedTernary, device: &Device) -> Self {
        let (d_out, d_in) = (packed.d_out(), packed.d_in());
        let granularity = packed.scale().granularity();
        let (words, scale) = packed.into_parts();
        let words = TensorData::new(words, [d_out, words_per_row(d_in)]);
        let scale = scale.values().to_vec();
        let count = scale.len();
        Self {
            codes: Tensor::from_data(words, (device, DType::U32)),
            scale: Tensor::from_data(TensorData::new(scale, [count]), (device, DType::F32)),
            d_in,
            granularity,
        }
    }

    /// Joins codes and scales that are already on a device, such as the parameters of a module.
    ///
    /// # Errors
    ///
    /// [`KernelError::Length`] if a shape does not fit, [`KernelError::GroupSize`].
    ///
    /// # Panics
    ///
    /// Panics if `codes` is not `u32` or `scale` not `f32`.
    pub fn from_parts(
        codes: Tensor<2, Int>,
        scale: Tensor<1>,
        d_in: usize,
        granularity: Granularity,
    ) -> Result<Self, KernelError> {
        granularity.checked()?;
        let [d_out, width] = codes.dims();
        crate::packing::check_dimensions(d_out, d_in)?;
        assert_eq!(codes.dtype(), DType::U32, "packed codes are u32 words");
        assert_eq!(
            scale.dtype(),
            DType::F32,
            "scales of a packed weight are f32"
        );
        let length = |what, unit, found, expected| {
            if found == expected {
                Ok(())
            } else {
                Err(KernelError::Length {
                    what,
                    unit,
                    found,
                    expected,
                    d_out,
                    d_in,
                })
            }
        };
        length("packed codes", "words per row", width, words_per_row(d_in))?;
        length(
            "ternary matrix",
            "scales",
            scale.dims()[0],
            granularity.count(d_out, d_in),
        )?;
        Ok(Self {
            codes,
            scale,
            d_in,
            granularity,
        })
    }

    /// What a kernel returned, right by construction.
    pub(super) fn from_kernel(
        codes: Tensor<2, Int>,
        scale: Tensor<1>,
        d_in: usize,
        granularity: Granularity,
    ) -> Self {
        Self {
            codes,
            scale,
            d_in,
            granularity,
        }
    }

    /// Rows.
    pub fn d_out(&self) -> usize {
        self.codes.dims()[0]
    }

    /// Columns.
    pub const fn d_in(&self) -> usize {
        self.d_in
    }

    /// How many scales there are.
    pub const fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The words `[d_out, words]` and the flat scales.
    pub fn into_parts(self) -> (Tensor<2, Int>, Tensor<1>) {
        (self.codes, self.scale)
    }

    /// Copies the matrix to the host and proves its values.
    ///
    /// # Errors
    ///
    /// [`KernelError::Code`] or [`KernelError::Scale`]: damaged records, or a weight quantized from NaN.
    pub fn to_packed(&self) -> Result<PackedTernary, KernelError> {
        let words = self
            .codes
            .clone()
            .into_data()
            .try_into_vec()
            .expect("codes are u32");
        let scale = self
            .scale
            .clone()
            .into_data()
            .try_into_vec()
            .expect("scales are f32");
        PackedTernary::new(
            words,
            Scale::from_values(self.granularity, scale),
            self.d_out(),
            self.d_in,
        )
    }

    /// The float matrix `scale·T`, `[d_out, d_in]` in f32: a slow truth, 16 times the memory.
    pub fn dequantize(&self) -> Tensor<2> {
        let (codes, scale) = self.clone().into_parts();
        Tensor::from_dispatch(defaults::dequantize::<Dispatch>(
            codes.into_dispatch(),
            scale.into_dispatch(),
            self.granularity,
            self.d_in,
        ))
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        4 * (self.codes.shape().num_elements() + self.scale.dims()[0])
    }

    /// Bits per weight, padding and scales included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.d_out() * self.d_in) as f64
    }

    pub(super) fn spec(&self, activations: ActivationQuantizer) -> TernarySpec {
        debug_assert!(self.codes.dims()[1] * CODES_PER_WORD >= self.d_in);
        TernarySpec {
            d_in: self.d_in,
            granularity: self.granularity,
            activations,
        }
    }
}
