//! NdArray, deprecated in Burn: the same CPU kernels as Flex. It knows f32 and f64 only.

#![allow(
    deprecated,
    reason = "Burn deprecates NdArray, but users still ask for it"
)]

use std::borrow::Cow;

use burn::backend::ndarray::NdArrayTensor;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{NdArray, TensorMetadata};
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use ndarray::{ArcArray, ArrayD, ArrayView, IxDyn};

use super::slices;
use crate::ops::table::rows_shape;
use crate::ops::{backward_shape, forward_shape};
use crate::packing::words::words_per_row;
use crate::{Granularity, TableOps, TableSpec, TernaryOps, TernarySpec, WeightQuantizer, cpu};

impl TernaryOps for NdArray {
    fn ternary_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
        let d_out = codes.shape()[0];
        let y = slices::ternary_linear(
            &f32s(&floats(x)),
            codes_of(&codes).view(),
            &f32s(&scale),
            d_out,
            spec,
        );
        tensor(y, &shape, dtype)
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
        let d_out = codes.shape()[0];
        let dx = slices::ternary_linear_dx(
            &f32s(&floats(dy)),
            codes_of(&codes).view(),
            &f32s(&scale),
            d_out,
            spec,
        );
        tensor(dx, &shape, dtype)
    }

    fn ternarize(
        latent: FloatTensor<Self>,
        quantizer: WeightQuantizer,
        granularity: Granularity,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let [d_out, d_in] = latent.shape().dims();
        let (words, scale) =
            slices::ternarize(&f32s(&floats(latent)), d_in, quantizer, granularity);
        let count = scale.len();
        (
            array(words, &Shape::new([d_out, words_per_row(d_in)])).into(),
            array(scale, &Shape::new([count])).into(),
        )
    }
}

impl TableOps for NdArray {
    fn table_rows(
        ids: IntTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let shape = rows_shape(&ids.shape(), &spec);
        let NdArrayTensor::I32(ids) = Self::int_cast(ids, IntDType::I32) else {
            unreachable!("cast to i32")
        };
        let rows = slices::table_rows(&slice(ids.view()), &u32s(&codes), &f32s(&scale), spec);
        tensor(rows, &shape, DType::F32)
    }

    fn table_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
        let y = slices::table_linear(&f32s(&floats(x)), &u32s(&codes), &f32s(&scale), spec);
        tensor(y, &shape, dtype)
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
        let screen = (
            &*u32s(&screen_codes),
            &*f32s(&screen_scale),
            &*f32s(&screen_error),
        );
        let (codes, scale) = (u32s(&codes), f32s(&scale));
        let y = slices::table_leading(&f32s(&floats(x)), &codes, &scale, screen, spec, leading);
        tensor(y, &shape, dtype)
    }
}

/// Products of one input with several weights.
fn products<const N: usize>(
    x: NdArrayTensor,
    weights: [(NdArrayTensor, NdArrayTensor); N],
    specs: [TernarySpec; N],
) -> [NdArrayTensor; N] {
    let (dtype, x) = (x.dtype(), floats(x));
    let codes = weights.each_ref().map(|(codes, _)| codes_of(codes));
    let scales = weights.each_ref().map(|(_, scale)| f32s(scale));
    let views: [_; N] = std::array::from_fn(|n| slices::Weight {
        codes: codes[n].view(),
        scale: &scales[n],
        d_out: weights[n].0.shape()[0],
        spec: specs[n],
    });
    let shapes = weights
        .each_ref()
        .map(|(codes, _)| forward_shape(&x.shape(), &codes.shape()));
    let mut outputs = slices::ternary_linears(&f32s(&x), &views)
        .into_iter()
        .zip(shapes);
    std::array::from_fn(|_| {
        let (y, shape) = outputs.next().expect("one for each weight");
        tensor(y, &shape, dtype)
    })
}

/// Packed codes in row order.
enum OwnedCodes<'a> {
    Words(Cow<'a, [u32]>),
    Base3(Cow<'a, [u8]>),
}

impl OwnedCodes<'_> {
    fn view(&self) -> cpu::Codes<'_> {
        match self {
            Self::Words(words) => cpu::Codes::Words(words),
            Self::Base3(bytes) => cpu::Codes::Base3(bytes),
        }
    }
}

fn codes_of(codes: &NdArrayTensor) -> OwnedCodes<'_> {
    match codes {
        NdArrayTensor::U8(bytes) => OwnedCodes::Base3(slice(bytes.view())),
        words => OwnedCodes::Words(u32s(words)),
    }
}

/// The f32 values of a float tensor; a copy only if it holds f64.
pub(super) fn floats(x: NdArrayTensor) -> NdArrayTensor {
    if x.dtype() == DType::F32 {
        x
    } else {
        NdArray::float_cast(x, FloatDType::F32)
    }
}

pub(super) fn f32s(x: &NdArrayTensor) -> Cow<'_, [f32]> {
    match x {
        NdArrayTensor::F32(values) => slice(values.view()),
        other => panic!("expected f32 values, found {:?}", other.dtype()),
    }
}

pub(super) fn u32s(codes: &NdArrayTensor) -> Cow<'_, [u32]> {
    match codes {
        NdArrayTensor::U32(values) => slice(values.view()),
        other => panic!("packed codes are u32 words, found {:?}", other.dtype()),
    }
}

/// The elements in row order; a copy only if they lie otherwise.
pub(super) fn slice<E: Clone>(view: ArrayView<'_, E, IxDyn>) -> Cow<'_, [E]> {
    match view.to_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(view.iter().cloned().collect()),
    }
}

pub(super) fn f32s_mut(tensor: &mut NdArrayTensor) -> &mut [f32] {
    match tensor {
        NdArrayTensor::F32(scales) => slice_mut(scales.ensure_owned()),
        other => panic!("scales of a cache are f32, found {:?}", other.dtype()),
    }
}

/// The elements in row order, copied first if something else holds them too or they lie otherwise.
pub(super) fn slice_mut<E: Clone>(array: &mut ArcArray<E, IxDyn>) -> &mut [E] {
    if !array.is_standard_layout() {
        *array = array.as_standard_layout().into_owned().into_shared();
    }
    array.as_slice_mut().expect("in standard layout")
}

pub(super) fn array<E: Clone>(values: Vec<E>, shape: &Shape) -> ArcArray<E, IxDyn> {
    let shape: Vec<usize> = shape.iter().copied().collect();
    ArrayD::from_shape_vec(IxDyn(&shape), values)
        .expect("as many values as the shape says")
        .into_shared()
}

fn tensor(values: Vec<f32>, shape: &Shape, dtype: DType) -> NdArrayTensor {
    let values = array(values, shape).into();
    if dtype == DType::F32 {
        values
    } else {
        NdArray::float_cast(values, dtype.into())
    }
}
