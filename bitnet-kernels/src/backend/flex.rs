//! Flex, Burn's default CPU backend: borrowed slices straight into the CPU kernels.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Element, FloatDType, IntDType, Shape, TensorData};

use super::slices;
use crate::ops::table::rows_shape;
use crate::ops::{backward_shape, forward_shape, rows};
use crate::packing::words::words_per_row;
use crate::{Granularity, TableOps, TableSpec, TernaryOps, TernarySpec, WeightQuantizer, cpu};

impl TernaryOps for Flex {
    fn ternary_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
        let (x, codes, scale) = (floats(x), codes.to_contiguous(), scale.to_contiguous());
        let y = slices::ternary_linear(
            slice(&x),
            codes_of(&codes),
            slice(&scale),
            codes.shape()[0],
            spec,
        );
        tensor(y, shape, dtype)
    }

    fn ternary_linear_pair(
        x: FloatTensor<Self>,
        codes_a: IntTensor<Self>,
        scale_a: FloatTensor<Self>,
        codes_b: IntTensor<Self>,
        scale_b: FloatTensor<Self>,
        specs: [TernarySpec; 2],
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [a, b] = products(x, [(codes_a, scale_a), (codes_b, scale_b)], specs);
        (a, b)
    }

    fn ternary_linear_triple(
        x: FloatTensor<Self>,
        codes_a: IntTensor<Self>,
        scale_a: FloatTensor<Self>,
        codes_b: IntTensor<Self>,
        scale_b: FloatTensor<Self>,
        codes_c: IntTensor<Self>,
        scale_c: FloatTensor<Self>,
        specs: [TernarySpec; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let weights = [(codes_a, scale_a), (codes_b, scale_b), (codes_c, scale_c)];
        let [a, b, c] = products(x, weights, specs);
        (a, b, c)
    }

    fn ternary_linear_dx(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (dy.dtype(), backward_shape(&dy.shape(), &spec));
        let (dy, codes, scale) = (floats(dy), codes.to_contiguous(), scale.to_contiguous());
        let dx = slices::ternary_linear_dx(
            slice(&dy),
            codes_of(&codes),
            slice(&scale),
            codes.shape()[0],
            spec,
        );
        tensor(dx, shape, dtype)
    }

    fn ternary_linear_dw(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let (dtype, count) = (x.dtype(), rows(&x.shape()));
        let d_out = dy.shape()[dy.shape().num_dims() - 1];
        let seen = match spec.activations.limit() {
            Some(limit) => {
                let x = floats(x);
                let mut seen = vec![0.0; count * spec.d_in];
                cpu::fake_quantize(cpu::kernel(), slice(&x), spec.d_in, limit, &mut seen);
                tensor(seen, Shape::new([count, spec.d_in]), dtype)
            }
            None => Self::float_reshape(x, Shape::new([count, spec.d_in])),
        };
        let dy = Self::float_reshape(dy, Shape::new([count, d_out]));
        Self::float_matmul(Self::float_transpose(dy), seen)
    }

    fn ternarize(
        latent: FloatTensor<Self>,
        quantizer: WeightQuantizer,
        granularity: Granularity,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let [d_out, d_in] = latent.shape().dims();
        let (words, scale) =
            slices::ternarize(slice(&floats(latent)), d_in, quantizer, granularity);
        let count = scale.len();
        let words = FlexTensor::from_data(TensorData::new(words, [d_out, words_per_row(d_in)]));
        (
            words,
            FlexTensor::from_data(TensorData::new(scale, [count])),
        )
    }
}

impl TableOps for Flex {
    fn table_rows(
        ids: IntTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let shape = rows_shape(&ids.shape(), &spec);
        let ids = Self::int_cast(ids, IntDType::I32).to_contiguous();
        let (codes, scale) = (codes.to_contiguous(), scale.to_contiguous());
        let rows = slices::table_rows(slice(&ids), slice(&codes), slice(&scale), spec);
        tensor(rows, shape, DType::F32)
    }

    fn table_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
        let (x, codes, scale) = (floats(x), codes.to_contiguous(), scale.to_contiguous());
        let y = slices::table_linear(slice(&x), slice(&codes), slice(&scale), spec);
        tensor(y, shape, dtype)
    }

    fn table_leading(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        screen_codes: IntTensor<Self>,
        screen_scale: FloatTensor<Self>,
        screen_error: FloatTensor<Self>,
        spec: TableSpec,
        leading: usize,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
        let (x, codes, scale) = (floats(x), codes.to_contiguous(), scale.to_contiguous());
        let (screen_codes, screen_scale) =
            (screen_codes.to_contiguous(), screen_scale.to_contiguous());
        let screen_error = screen_error.to_contiguous();
        let screen = (
            slice(&screen_codes),
            slice(&screen_scale),
            slice(&screen_error),
        );
        let y = slices::table_leading(
            slice(&x),
            slice(&codes),
            slice(&scale),
            screen,
            spec,
            leading,
        );
        tensor(y, shape, dtype)
    }
}

/// Products of one input with several weights.
fn products<const N: usize>(
    x: FlexTensor,
    weights: [(FlexTensor, FlexTensor); N],
    specs: [TernarySpec; N],
) -> [FlexTensor; N] {
    let (dtype, x) = (x.dtype(), floats(x));
    let weights = weights.map(|(codes, scale)| (codes.to_contiguous(), scale.to_contiguous()));
    let views: [_; N] = std::array::from_fn(|n| slices::Weight {
        codes: codes_of(&weights[n].0),
        scale: slice(&weights[n].1),
        d_out: weights[n].0.shape()[0],
        spec: specs[n],
    });
    let shapes = weights
        .each_ref()
        .map(|(codes, _)| forward_shape(&x.shape(), &codes.shape()));
    let mut outputs = slices::ternary_linears(slice(&x), &views)
        .into_iter()
        .zip(shapes);
    std::array::from_fn(|_| {
        let (y, shape) = outputs.next().expect("one for each weight");
        tensor(y, shape, dtype)
    })
}

/// The codes of a contiguous tensor: base-3 bytes or words.
fn codes_of(tensor: &FlexTensor) -> cpu::Codes<'_> {
    match tensor.dtype() {
        DType::U8 => cpu::Codes::Base3(slice(tensor)),
        _ => cpu::Codes::Words(slice(tensor)),
    }
}

/// Contiguous f32 values; a copy only if `x` is neither.
pub(super) fn floats(x: FlexTensor) -> FlexTensor {
    let x = if x.dtype() == DType::F32 {
        x
    } else {
        Flex::float_cast(x, FloatDType::F32)
    };
    x.to_contiguous()
}

/// The elements of a contiguous tensor. `storage` is the whole buffer, so the layout's offset applies.
pub(super) fn slice<E: Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[E] {
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .expect("made contiguous by the caller");
    &tensor.storage::<E>()[start..end]
}

/// The elements of a contiguous tensor, copied first if something else holds them too.
pub(super) fn slice_mut<E: Element + bytemuck::Pod>(tensor: &mut FlexTensor) -> &mut [E] {
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .expect("made contiguous by the caller");
    &mut tensor.storage_mut::<E>()[start..end]
}

fn tensor(values: Vec<f32>, shape: Shape, dtype: DType) -> FlexTensor {
    let values = FlexTensor::from_data(TensorData::new(values, shape));
    if dtype == DType::F32 {
        values
    } else {
        Flex::float_cast(values, dtype.into())
    }
}
