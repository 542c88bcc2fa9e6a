//! [`VectorOps`] on each backend: slices on CPUs, kernels for the norm on GPUs, and the norm's gradient for autodiff; everything
//! else is the default bodies.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use crate::VectorOps;

#[derive(Debug)]
struct NormBackward;

impl<B: VectorOps> Backward<B, 2> for NormBackward {
    type State = (NodeId, FloatTensor<B>, f32);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x, gamma] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (input, factors, epsilon) = ops.state;
        let input: FloatTensor<B> = checkpointer.retrieve_node_output(input);
        let (dx, dgamma) = B::rms_norm_dx(input, factors, dy, epsilon);
        if let Some(x) = x {
            grads.register::<B>(x.id, dx);
        }
        if let Some(gamma) = gamma {
            grads.register::<B>(gamma.id, dgamma);
        }
    }
}

/// The norm has a gradient of its own; the others are composed of primitives, and so differentiated by them.
impl<B: VectorOps, C: CheckpointStrategy> VectorOps for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        match NormBackward
            .prepare::<C>([x.node(), gamma.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                let factors = gamma.into_primitive();
                let y = B::rms_norm(x.into_primitive(), factors.clone(), epsilon);
                prep.finish((input, factors, epsilon), y)
            }
            OpsKind::UnTracked(prep) => {
                let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
                prep.finish(B::rms_norm(x, gamma, epsilon))
            }
        }
    }

    /// No gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn rms_norm_dx(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, gamma, dy] = [x, gamma, dy].map(|tensor| tensor.into_primitive());
        let (dx, dgamma) = B::rms_norm_dx(x, gamma, dy, epsilon);
        (
            <FloatTensor<Self>>::new(dx),
            <FloatTensor<Self>>::new(dgamma),
        )
    }
}

#[cfg(feature = "cube")]
mod cube {
    use burn::backend::TensorMetadata;
    use burn::backend::ops::FloatTensorOps;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::{DType, Shape};
    use burn_cubecl::CubeBackend;
    use burn_cubecl::kernel::into_contiguous;

    use crate::VectorOps;
    use crate::backend::cube::empty_like;
    use crate::cube::norm;

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
