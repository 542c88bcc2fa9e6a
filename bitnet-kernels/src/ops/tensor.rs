//! `TernaryTensor`: a packed ternary matrix on a device.
//!
//! The dtype of its codes says how they are packed: u32 canonical words, u8 base 3. Whether base 3 stays base 3 on a device is
//! decided here alone: where the CPU's kernel has loops for it, else the codes become words on their way.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{TernarySpec, defaults};
use crate::packing::words::words_per_row;
use crate::packing::{Packing, base3};
use crate::{ActivationQuantizer, Granularity, KernelError, PackedTernary, Scale, cpu};

/// A ternary matrix `[d_out, d_in]` on a device: 2 or 1.6 bits per weight in memory, scales in f32.
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
        let scale = TensorData::new(scale, [granularity.count(d_out, d_in)]);
        Self::from_data(words, scale, d_in, granularity, device).expect("proven on construction")
    }

    /// Moves codes and scales to a device, without a copy where Burn makes none. Codes are canonical words, u32, or base-3
    /// bytes, u8. Bytes become words where no loops read them: on GPUs, with scales for groups, and with CPU kernels that
    /// have none.
    ///
    /// # Errors
    ///
    /// As [`from_parts`](Self::from_parts). Values are trusted: prove those of a file before.
    ///
    /// # Panics
    ///
    /// Panics if `codes` is no matrix of `u32` or `u8`, or `scale` not flat `f32`.
    pub fn from_data(
        codes: TensorData,
        scale: TensorData,
        d_in: usize,
        granularity: Granularity,
        device: &Device,
    ) -> Result<Self, KernelError> {
        let dtype = codes.dtype();
        let stays = dtype != DType::U8
            || (reads_base3(device) && !matches!(granularity, Granularity::Group(_)));
        let codes = match codes.shape()[0] {
            d_out if !stays && codes.num_elements() == d_out * base3::bytes_per_row(d_in) => {
                let words = base3::unpack(codes.as_bytes(), d_out, d_in);
                let words = TensorData::new(words, [d_out, words_per_row(d_in)]);
                Tensor::from_data(words, (device, DType::U32))
            }
            _ => Tensor::from_data(codes, (device, dtype)),
        };
        let scale = Tensor::from_data(scale, (device, DType::F32));
        Self::from_parts(codes, scale, d_in, granularity)
    }

    /// Joins codes and scales that are already on a device, such as the parameters of a module.
    ///
    /// # Errors
    ///
    /// [`KernelError::Length`] if a shape does not fit, [`KernelError::GroupSize`].
    ///
    /// # Panics
    ///
    /// Panics if `codes` is neither `u32` nor, on a CPU, `u8`, or if `scale` is not `f32`.
    pub fn from_parts(
        codes: Tensor<2, Int>,
        scale: Tensor<1>,
        d_in: usize,
        granularity: Granularity,
    ) -> Result<Self, KernelError> {
        granularity.checked()?;
        let [d_out, width] = codes.dims();
        crate::packing::check_dimensions(d_out, d_in)?;
        let (unit, expected) = match packing(&codes) {
            Packing::Words => ("words per row", words_per_row(d_in)),
            Packing::Base3 => ("base-3 bytes per row", base3::bytes_per_row(d_in)),
        };
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
        length("packed codes", unit, width, expected)?;
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

    /// How the codes are packed.
    pub fn packing(&self) -> Packing {
        packing(&self.codes)
    }

    /// The same matrix, to be moved to `device`: in words unless its kernels read base 3.
    pub fn fit(self, device: &Device) -> Self {
        if self.packing() == Packing::Words || reads_base3(device) {
            self
        } else {
            self.in_words()
        }
    }

    fn in_words(self) -> Self {
        if self.packing() == Packing::Words {
            return self;
        }
        let (d_out, device) = (self.d_out(), self.codes.device());
        let words = base3::unpack(self.codes.into_data().as_bytes(), d_out, self.d_in);
        let words = TensorData::new(words, [d_out, words_per_row(self.d_in)]);
        Self {
            codes: Tensor::from_data(words, (&device, DType::U32)),
            ..self
        }
    }

    /// The words `[d_out, words]` or bytes `[d_out, bytes]`, and the flat scales.
    pub fn into_parts(self) -> (Tensor<2, Int>, Tensor<1>) {
        (self.codes, self.scale)
    }

    /// Copies the matrix to the host and proves its values.
    ///
    /// # Errors
    ///
    /// [`KernelError::Code`] or [`KernelError::Scale`]: damaged records, or a weight quantized from NaN.
    pub fn to_packed(&self) -> Result<PackedTernary, KernelError> {
        let codes = self.codes.clone().into_data();
        let words = match self.packing() {
            Packing::Words => codes.try_into_vec().expect("codes are u32"),
            Packing::Base3 => {
                base3::check(codes.as_bytes(), self.d_out(), self.d_in)?;
                base3::unpack(codes.as_bytes(), self.d_out(), self.d_in)
            }
        };
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
        let (codes, scale) = self.clone().in_words().into_parts();
        Tensor::from_dispatch(defaults::dequantize::<Dispatch>(
            codes.into_dispatch(),
            scale.into_dispatch(),
            self.granularity,
            self.d_in,
        ))
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        let codes = self.codes.shape().num_elements() * self.codes.dtype().size();
        codes + 4 * self.scale.dims()[0]
    }

    /// Bits per weight, padding and scales included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.d_out() * self.d_in) as f64
    }

    pub(super) fn spec(&self, activations: ActivationQuantizer) -> TernarySpec {
        TernarySpec {
            d_in: self.d_in,
            granularity: self.granularity,
            activations,
        }
    }
}

/// What the dtype of codes says.
fn packing(codes: &Tensor<2, Int>) -> Packing {
    match codes.dtype() {
        DType::U32 => Packing::Words,
        DType::U8 if is_cpu(&codes.device()) => Packing::Base3,
        other => panic!("packed codes are u32 words, or u8 on a CPU, found {other:?}"),
    }
}

/// Whether the kernels of a device have loops for base 3.
fn reads_base3(device: &Device) -> bool {
    is_cpu(device) && cpu::kernel().base3().is_some()
}

/// Whether `cpu` computes for a device.
#[allow(
    deprecated,
    reason = "Burn deprecates NdArray, but users still ask for it"
)]
pub(crate) fn is_cpu(device: &Device) -> bool {
    let _ = device;
    #[cfg(feature = "flex")]
    if *device == Device::flex() {
        return true;
    }
    #[cfg(feature = "ndarray")]
    if *device == Device::ndarray() {
        return true;
    }
    false
}
