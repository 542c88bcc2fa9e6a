//! Gradients of norm, gate and rotation.
//!
//! Norm and gate keep their inputs, a rotation its angles alone. Gate and rotation take little time, so gradient
//! checkpointing computes their outputs again.

use std::marker::PhantomData;

use burn::backend::Backend;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use crate::ops::vector::defaults;
use crate::{Activation, VectorOps};

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

#[derive(Debug)]
struct GatedBackward;

impl<B: VectorOps> Backward<B, 2> for GatedBackward {
    type State = ([NodeId; 2], Activation);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (inputs, activation) = ops.state;
        let [gate, up] = inputs.map(|input| checkpointer.retrieve_node_output(input));
        let (dgate, dup) = B::gated_dx(gate, up, dy, activation);
        for (parent, gradient) in parents.into_iter().zip([dgate, dup]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// A gate that gradient checkpointing opens again.
#[derive(Debug)]
struct GatedAgain<B> {
    inputs: [NodeId; 2],
    activation: Activation,
    backend: PhantomData<B>,
}

impl<B: VectorOps> RetroForward for GatedAgain<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [gate, up] = self.inputs.map(|input| states.get_state(&input));
        states.save(out_node, B::gated(gate, up, self.activation));
    }
}

#[derive(Debug)]
struct RotateBackward;

/// The first parent is `x`.
impl<B: VectorOps, const N: usize> Backward<B, N> for RotateBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let [cos, sin] = ops.state;
        if let Some(Some(x)) = ops.parents.first() {
            grads.register::<B>(x.id, B::rotate_dx(dy, cos, sin));
        }
    }
}

/// A rotation that gradient checkpointing takes again.
#[derive(Debug)]
struct RotateAgain<B: Backend> {
    x: NodeId,
    angles: [FloatTensor<B>; 2],
}

impl<B: VectorOps> RetroForward for RotateAgain<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [cos, sin] = self.angles.clone();
        let x = states.get_state(&self.x);
        states.save(out_node, B::rotate(x, cos, sin));
    }
}

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

    fn gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let again = GatedAgain::<B> {
            inputs: [gate.id(), up.id()],
            activation,
            backend: PhantomData,
        };
        match GatedBackward
            .prepare::<C>([gate.node(), up.node()])
            .memory_bound()
            .retro_forward(again)
            .parents([&gate, &up])
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&gate), prep.checkpoint(&up)];
                let (gate, up) = (gate.into_primitive(), up.into_primitive());
                prep.finish((inputs, activation), B::gated(gate, up, activation))
            }
            OpsKind::UnTracked(prep) => {
                let (gate, up) = (gate.into_primitive(), up.into_primitive());
                prep.finish(B::gated(gate, up, activation))
            }
        }
    }

    /// Angles that are tracked, which those of positions are not, get their gradient from primitives.
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        // Only a step in preparation tells what is tracked.
        let step = Backward::<B, 2>::prepare::<C>(RotateBackward, [cos.node(), sin.node()]);
        if let OpsKind::Tracked(_) = step.compute_bound().stateful() {
            return defaults::rotate::<Self>(x, cos, sin);
        }
        let angles = [cos, sin].map(|angle| angle.into_primitive());
        let again = RotateAgain::<B> {
            x: x.id(),
            angles: angles.clone(),
        };
        let step = Backward::<B, 1>::prepare::<C>(RotateBackward, [x.node()])
            .memory_bound()
            .retro_forward(again)
            .parents([&x])
            .stateful();
        let [cos, sin] = angles.clone();
        let y = B::rotate(x.into_primitive(), cos, sin);
        match step {
            OpsKind::Tracked(prep) => prep.finish(angles, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
