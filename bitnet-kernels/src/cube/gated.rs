//! Gates and their gradients: one pass each, a unit takes a vector of numbers.
//!
//! `y = activation(gate)·up`, in the order of operations of the CPU. With `s = sigmoid(x)`, SiLU has the slope
//! `s·(1 + x·(1 − s))`, and `max(x, 0)²` has `2·max(x, 0)`. NaN stays NaN. All numbers are f32.

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{buffer, cube_count};
use crate::Activation;

/// Units of a cube, where a device has room.
const UNITS: u32 = 256;

/// Numbers that a unit takes of `count`.
const fn width(count: usize) -> usize {
    if count.is_multiple_of(4) { 4 } else { 1 }
}

/// Writes the gate of `count` numbers. `tensors` are gate, up and y.
pub fn forward(client: &Client, tensors: [&Handle; 3], count: usize, activation: Activation) {
    let units = client.properties().hardware.max_units_per_cube.min(UNITS);
    let width = width(count);
    let vectors = count / width;
    let [gate, up, y] = tensors.map(|handle| buffer(handle, vectors));
    open_gates::launch(
        client,
        cube_count(vectors.div_ceil(units as usize)),
        CubeDim::new_1d(units),
        width,
        gate,
        up,
        y,
        vectors as u32,
        units as usize,
        activation,
    );
}

/// Writes gradients of `count` numbers. `inputs` are gate, up and dy; `outputs` dgate and dup.
pub fn backward(
    client: &Client,
    inputs: [&Handle; 3],
    outputs: [&Handle; 2],
    count: usize,
    activation: Activation,
) {
    let units = client.properties().hardware.max_units_per_cube.min(UNITS);
    let width = width(count);
    let vectors = count / width;
    let [gate, up, dy] = inputs.map(|handle| buffer(handle, vectors));
    let [dgate, dup] = outputs.map(|handle| buffer(handle, vectors));
    open_gates_dx::launch(
        client,
        cube_count(vectors.div_ceil(units as usize)),
        CubeDim::new_1d(units),
        width,
        gate,
        up,
        dy,
        dgate,
        dup,
        vectors as u32,
        units as usize,
        activation,
    );
}

#[cube(launch)]
pub(crate) fn open_gates<V: Size>(
    gate: &[Vector<f32, V>],
    up: &[Vector<f32, V>],
    y: &mut [Vector<f32, V>],
    vectors: u32,
    #[comptime] units: usize,
    #[comptime] activation: Activation,
) {
    let at = CUBE_POS * units + UNIT_POS as usize;
    if at >= vectors as usize {
        terminate!();
    }
    y[at] = opened::<V>(gate[at], activation) * up[at];
}

#[cube(launch)]
pub(crate) fn open_gates_dx<V: Size>(
    gate: &[Vector<f32, V>],
    up: &[Vector<f32, V>],
    dy: &[Vector<f32, V>],
    dgate: &mut [Vector<f32, V>],
    dup: &mut [Vector<f32, V>],
    vectors: u32,
    #[comptime] units: usize,
    #[comptime] activation: Activation,
) {
    let at = CUBE_POS * units + UNIT_POS as usize;
    if at >= vectors as usize {
        terminate!();
    }
    let (x, dy) = (gate[at], dy[at]);
    dgate[at] = dy * up[at] * slope::<V>(x, activation);
    dup[at] = dy * opened::<V>(x, activation);
}

/// `activation(x)`.
#[cube]
fn opened<V: Size>(x: Vector<f32, V>, #[comptime] activation: Activation) -> Vector<f32, V> {
    match comptime!(activation) {
        Activation::Silu => x / (Vector::new(1.0_f32) + (-x).exp()),
        Activation::Relu2 => {
            let positive = positive::<V>(x);
            positive * positive
        }
    }
}

/// The derivative of `activation` at `x`.
#[cube]
fn slope<V: Size>(x: Vector<f32, V>, #[comptime] activation: Activation) -> Vector<f32, V> {
    match comptime!(activation) {
        Activation::Silu => {
            let one = Vector::new(1.0_f32);
            let sigmoid = one / (one + (-x).exp());
            sigmoid * (one + x * (one - sigmoid))
        }
        Activation::Relu2 => {
            let positive = positive::<V>(x);
            positive + positive
        }
    }
}

/// `max(x, 0)`; NaN stays NaN, which the maximum of some devices would not leave.
#[cube]
fn positive<V: Size>(x: Vector<f32, V>) -> Vector<f32, V> {
    let zero = Vector::new(0.0_f32);
    select_many(x.less_than(&zero), zero, x)
}
