//! Rotary positions: one pass, a unit turns a vector of pairs `(x[i], x[i + d/2])`.
//!
//! `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`, and on the way back the rotation by the opposite angle. Tensors
//! are read and written where they lie: heads beside each other within a position, as a projection gives them, or
//! positions beside each other within a head, as attention takes them. Angles are broadcast by strides of 0. All
//! numbers are f32.

use cubecl::client::Client;
use cubecl::prelude::*;

use super::cube_count;

/// Units of a cube, where a device has room.
const UNITS: u32 = 256;

/// Numbers that a unit takes of each half of a row, if a half has `half` and rows start at multiples of `strides`.
pub fn width(half: usize, strides: &[usize]) -> usize {
    let fits = |width: &usize| {
        half.is_multiple_of(*width) && strides.iter().all(|stride| stride.is_multiple_of(*width))
    };
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

/// Turns `pairs` pairs, or turns them back. `tensors` are x, cos, sin and y, all of the same batch, heads and positions,
/// with contiguous rows.
pub fn launch(client: &Client, tensors: [TensorArg; 4], pairs: usize, width: usize, back: bool) {
    let units = client.properties().hardware.max_units_per_cube.min(UNITS);
    let [x, cos, sin, y] = tensors;
    rotate_pairs::launch(
        client,
        cube_count((pairs / width).div_ceil(units as usize)),
        CubeDim::new_1d(units),
        width,
        x,
        cos,
        sin,
        y,
        units as usize,
        width,
        back,
    );
}

#[cube(launch)]
pub(crate) fn rotate_pairs<V: Size>(
    x: &Tensor<Vector<f32, V>>,     // [batch, heads, seq, d]
    cos: &Tensor<Vector<f32, V>>,   // [batch, heads, seq, d / 2]
    sin: &Tensor<Vector<f32, V>>,   // the same
    y: &mut Tensor<Vector<f32, V>>, // as x
    #[comptime] units: usize,
    #[comptime] width: usize,
    #[comptime] back: bool,
) {
    let at = CUBE_POS * units + UNIT_POS as usize;
    let (heads, seq, half) = (x.shape(1), x.shape(2), cos.shape(3) / width);
    let row = at / half;
    let place = (row / (heads * seq), row / seq % heads, row % seq, at % half);
    if place.0 >= x.shape(0) {
        terminate!();
    }
    let (batch, head, position, column) = place;
    let first = batch * x.stride(0) + head * x.stride(1) + position * x.stride(2);
    let a = x[first / width + column];
    let b = x[first / width + half + column];
    let first = batch * cos.stride(0) + position * cos.stride(2);
    let cos = cos[first / width + column];
    let first = batch * sin.stride(0) + position * sin.stride(2);
    let sin = sin[first / width + column];
    let first = batch * y.stride(0) + head * y.stride(1) + position * y.stride(2);
    let first = first / width + column;
    if comptime!(back) {
        y[first] = a * cos + b * sin;
        y[first + half] = b * cos - a * sin;
    } else {
        y[first] = a * cos - b * sin;
        y[first + half] = b * cos + a * sin;
    }
}
