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
use crate::{Granularity, TableOps, TableSpec, TernaryOps, TernarySpec, WeightQuantizer};

impl TernaryOps for NdArray {
    fn ternary_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), forward_shape(&x.shape(), &codes.shape()));
        let d_out = codes.shape()[0];
        let y =
            slices::ternary_linear(&f32s(&floats(x)), &u32s(&codes), &f32s(&scale), d_out, spec);
        tensor(y, &shape, dtype)
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
            &u32s(&codes),
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
