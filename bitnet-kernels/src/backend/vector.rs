//! [`VectorOps`] on each backend: slices on CPUs; everywhere else the default bodies.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;

use crate::VectorOps;

/// Composed of primitives, and so differentiated by them.
impl<B: VectorOps, C: CheckpointStrategy> VectorOps for Autodiff<B, C> {}

#[cfg(feature = "cube")]
impl VectorOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Flex, TensorMetadata};
    use burn::tensor::TensorData;

    use crate::backend::flex::{slice, slice_mut};
    use crate::{Activation, VectorOps, cpu};

    impl VectorOps for Flex {
        fn rms_norm(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            epsilon: f32,
        ) -> FloatTensor<Self> {
            let (x, gamma) = (x.to_contiguous(), gamma.to_contiguous());
            let mut out = vec![0.0; x.shape().num_elements()];
            cpu::rms_norm(cpu::kernel(), slice(&x), slice(&gamma), epsilon, &mut out);
            FlexTensor::from_data(TensorData::new(out, x.shape()))
        }

        fn gated(
            gate: FloatTensor<Self>,
            up: FloatTensor<Self>,
            activation: Activation,
        ) -> FloatTensor<Self> {
            let (mut gate, up) = (gate.to_contiguous(), up.to_contiguous());
            cpu::gated(cpu::kernel(), activation, slice_mut(&mut gate), slice(&up));
            gate
        }

        fn rotate(
            x: FloatTensor<Self>,
            cos: FloatTensor<Self>,
            sin: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let [x, cos, sin] = [x, cos, sin].map(|tensor| tensor.to_contiguous());
            let [batches, _, positions, _] = cos.shape().dims();
            let mut out = vec![0.0; x.shape().num_elements()];
            cpu::rotate(
                cpu::kernel(),
                x.shape().dims(),
                [batches, positions],
                slice(&x),
                slice(&cos),
                slice(&sin),
                &mut out,
            );
            FlexTensor::from_data(TensorData::new(out, x.shape()))
        }
    }
}

#[cfg(feature = "ndarray")]
mod ndarray {
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{NdArray, TensorMetadata};

    use crate::backend::ndarray::{array, f32s, f32s_mut};
    use crate::{Activation, VectorOps, cpu};

    impl VectorOps for NdArray {
        fn rms_norm(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            epsilon: f32,
        ) -> FloatTensor<Self> {
            let mut out = vec![0.0; x.shape().num_elements()];
            cpu::rms_norm(cpu::kernel(), &f32s(&x), &f32s(&gamma), epsilon, &mut out);
            array(out, &x.shape()).into()
        }

        fn gated(
            mut gate: FloatTensor<Self>,
            up: FloatTensor<Self>,
            activation: Activation,
        ) -> FloatTensor<Self> {
            cpu::gated(cpu::kernel(), activation, f32s_mut(&mut gate), &f32s(&up));
            gate
        }

        fn rotate(
            x: FloatTensor<Self>,
            cos: FloatTensor<Self>,
            sin: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let [batches, _, positions, _] = cos.shape().dims();
            let mut out = vec![0.0; x.shape().num_elements()];
            cpu::rotate(
                cpu::kernel(),
                x.shape().dims(),
                [batches, positions],
                &f32s(&x),
                &f32s(&cos),
                &f32s(&sin),
                &mut out,
            );
            array(out, &x.shape()).into()
        }
    }
}
