//! [`VectorOps`] on each backend: slices on CPUs, kernels on GPUs, and gradients for autodiff; everything else is the
//! default bodies.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

mod autodiff;

#[cfg(feature = "cube")]
mod cube {
    use burn::backend::TensorMetadata;
    use burn::backend::ops::FloatTensorOps;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::{DType, Shape};
    use burn_cubecl::CubeBackend;
    use burn_cubecl::kernel::{into_contiguous, untile};
    use burn_cubecl::tensor::CubeTensor;

    use crate::backend::cube::empty_like;
    use crate::cube::{gated, norm, rotate};
    use crate::{Activation, VectorOps};

    impl VectorOps for CubeBackend {
        fn rms_norm(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            epsilon: f32,
        ) -> FloatTensor<Self> {
            let [x, gamma] = [x, gamma].map(into_contiguous);
            let d = gamma.shape()[0];
            let y = empty_like(&x, x.shape(), DType::F32);
            let rows = x.shape().num_elements() / d;
            norm::forward(
                &y.client,
                [&x.handle, &gamma.handle, &y.handle],
                (rows, d),
                epsilon,
            );
            y
        }

        fn rms_norm_dx(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            dy: FloatTensor<Self>,
            epsilon: f32,
        ) -> (FloatTensor<Self>, FloatTensor<Self>) {
            let [x, gamma, dy] = [x, gamma, dy].map(into_contiguous);
            let d = gamma.shape()[0];
            let rows = x.shape().num_elements() / d;
            let dx = empty_like(&x, x.shape(), DType::F32);
            let parts = norm::parts(rows);
            let sums = empty_like(&x, Shape::new([parts, d]), DType::F32);
            norm::backward(
                &dx.client,
                [&x.handle, &gamma.handle, &dy.handle],
                [&dx.handle, &sums.handle],
                (rows, d),
                epsilon,
            );
            let dgamma = Self::float_sum_dim(sums, 0);
            (dx, burn_cubecl::ops::reshape(dgamma, Shape::new([d])))
        }

        fn gated(
            gate: FloatTensor<Self>,
            up: FloatTensor<Self>,
            activation: Activation,
        ) -> FloatTensor<Self> {
            let [gate, up] = [gate, up].map(into_contiguous);
            let y = empty_like(&gate, gate.shape(), DType::F32);
            gated::forward(
                &y.client,
                [&gate.handle, &up.handle, &y.handle],
                y.shape().num_elements(),
                activation,
            );
            y
        }

        fn gated_dx(
            gate: FloatTensor<Self>,
            up: FloatTensor<Self>,
            dy: FloatTensor<Self>,
            activation: Activation,
        ) -> (FloatTensor<Self>, FloatTensor<Self>) {
            let [gate, up, dy] = [gate, up, dy].map(into_contiguous);
            let [dgate, dup] = [(); 2].map(|()| empty_like(&gate, gate.shape(), DType::F32));
            gated::backward(
                &dgate.client,
                [&gate.handle, &up.handle, &dy.handle],
                [&dgate.handle, &dup.handle],
                gate.shape().num_elements(),
                activation,
            );
            (dgate, dup)
        }

        fn rotate(
            x: FloatTensor<Self>,
            cos: FloatTensor<Self>,
            sin: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let y = empty_like(&x, x.shape(), DType::F32);
            turn(x, [cos, sin], &y, false);
            y
        }

        /// Heads lie beside each other within a position: the gradient of the projection that gave them is a view.
        fn rotate_dx(
            dy: FloatTensor<Self>,
            cos: FloatTensor<Self>,
            sin: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let [batch, heads, seq, d] = dy.shape().dims();
            let dx = empty_like(&dy, Shape::new([batch, seq, heads, d]), DType::F32);
            let dx = burn_cubecl::ops::permute(dx, &[0, 2, 1, 3]);
            turn(dy, [cos, sin], &dx, true);
            dx
        }
    }

    /// Writes `x`, turned or turned back, to `y`.
    fn turn(x: CubeTensor, angles: [CubeTensor; 2], y: &CubeTensor, back: bool) {
        let x = untile(x);
        let x = match x.meta.strides().last() {
            Some(1) => x,
            _ => into_contiguous(x),
        };
        let [batch, heads, seq, d] = x.shape().dims();
        let expanded = |angle| {
            let shape = Shape::new([batch, heads, seq, d / 2]);
            CubeBackend::float_expand(into_contiguous(angle), shape)
        };
        let [cos, sin] = angles.map(expanded);
        let width = rotate::width(d / 2, &x.meta.strides()[..3]);
        rotate::launch(
            &y.client,
            [x, cos, sin, y.clone()].map(CubeTensor::into_tensor_arg),
            batch * heads * seq * (d / 2),
            width,
            back,
        );
    }
}

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
            // Heads beside each other within a position, as they come from a projection.
            let x = x.transpose(1, 2);
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
            FlexTensor::from_data(TensorData::new(out, x.shape())).transpose(1, 2)
        }
    }
}

#[cfg(feature = "ndarray")]
mod ndarray {
    use burn::backend::ops::FloatTensorOps;
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
            let x = Self::float_swap_dims(x, 1, 2);
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
            Self::float_swap_dims(array(out, &x.shape()).into(), 1, 2)
        }
    }
}
