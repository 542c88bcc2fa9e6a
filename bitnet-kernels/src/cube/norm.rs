//! RMS norms and their gradients: a team of units takes a row.
//!
//! `y = γ·(x·r)`, `r = 1/√(mean(x²) + ε)`. With `x̂ = x·r` and `g = dy·γ`: `dx = r·(g − x̂·mean(g·x̂))`, `dγ = Σ dy·x̂` over rows,
//! which are added up in parts of [`PART`] by units that own a column each. All numbers are f32.

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{last_of, sum_of_lanes};
use super::rows::Blueprint;
use super::{buffer, cube_count};

/// Rows whose contributions to `dγ` one unit adds up.
const PART: usize = 64;

/// Parts of so many rows.
pub const fn parts(rows: usize) -> usize {
    rows.div_ceil(PART)
}

/// Writes the norm of `rows` rows of `d`. `tensors` are x, γ and y.
pub fn forward(client: &Client, tensors: [&Handle; 3], (rows, d): (usize, usize), epsilon: f32) {
    let plan = Blueprint::of(client);
    let [x, gamma, y] = tensors;
    norm_rows::launch(
        client,
        cube_count(rows.div_ceil(plan.slots)),
        plan.dim(),
        buffer(x, rows * d),
        buffer(gamma, d),
        buffer(y, rows * d),
        rows as u32,
        d as u32,
        epsilon,
        plan,
    );
}

#[cube(launch)]
pub(crate) fn norm_rows(
    x: &[f32], // [rows, d]
    gamma: &[f32],
    y: &mut [f32], // [rows, d]
    rows: u32,
    d: u32,
    epsilon: f32,
    #[comptime] plan: Blueprint,
) {
    let lanes = comptime!(plan.lanes);
    let d = d as usize;
    // Teams beyond the last row do it once more: all units of a cube meet in sums.
    let team = CUBE_POS * comptime!(plan.slots) + UNIT_POS_Y as usize;
    let first = last_of(team, rows as usize) * d;
    let inverse = inverse_root(x, first, d, epsilon, plan);
    let mut column = UNIT_POS_X as usize;
    while column < d {
        y[first + column] = x[first + column] * inverse * gamma[column];
        column += lanes;
    }
}

/// `1/√(mean(x²) + ε)` of a row, known to the team.
#[cube]
fn inverse_root(
    x: &[f32],
    first: usize,
    d: usize,
    epsilon: f32,
    #[comptime] plan: Blueprint,
) -> f32 {
    let mut squares = f32::new(0.0_f32);
    let mut column = UNIT_POS_X as usize;
    while column < d {
        let value = x[first + column];
        squares += value * value;
        column += comptime!(plan.lanes);
    }
    let squares = sum_of_lanes::<f32>(squares, plan.lanes, plan.slots, plan.shuffle);
    f32::new(1.0_f32) / (squares / f32::cast_from(d) + epsilon).sqrt()
}

/// Writes gradients. `inputs` are x, γ and dy; `outputs` dx, and the parts of dγ, `[parts, d]`.
pub fn backward(
    client: &Client,
    inputs: [&Handle; 3],
    outputs: [&Handle; 2],
    (rows, d): (usize, usize),
    epsilon: f32,
) {
    let plan = Blueprint::of(client);
    let [x, gamma, dy] = inputs;
    let [dx, dgamma] = outputs;
    let inverses = client.empty(rows * 4);
    norm_rows_dx::launch(
        client,
        cube_count(rows.div_ceil(plan.slots)),
        plan.dim(),
        buffer(x, rows * d),
        buffer(gamma, d),
        buffer(dy, rows * d),
        buffer(dx, rows * d),
        buffer(&inverses, rows),
        rows as u32,
        d as u32,
        epsilon,
        plan,
    );
    let units = plan.lanes * plan.slots;
    norm_columns_dx::launch(
        client,
        CubeCount::Static(d.div_ceil(units) as u32, parts(rows) as u32, 1),
        CubeDim::new_1d(units as u32),
        buffer(x, rows * d),
        buffer(dy, rows * d),
        buffer(&inverses, rows),
        buffer(dgamma, parts(rows) * d),
        rows as u32,
        d as u32,
        units,
    );
}

#[cube(launch)]
pub(crate) fn norm_rows_dx(
    x: &[f32], // [rows, d]
    gamma: &[f32],
    dy: &[f32],           // [rows, d]
    dx: &mut [f32],       // [rows, d]
    inverses: &mut [f32], // [rows]
    rows: u32,
    d: u32,
    epsilon: f32,
    #[comptime] plan: Blueprint,
) {
    let lanes = comptime!(plan.lanes);
    let d = d as usize;
    let team = CUBE_POS * comptime!(plan.slots) + UNIT_POS_Y as usize;
    let row = last_of(team, rows as usize);
    let first = row * d;
    let inverse = inverse_root(x, first, d, epsilon, plan);
    let mut along = f32::new(0.0_f32);
    let mut column = UNIT_POS_X as usize;
    while column < d {
        let at = first + column;
        along += dy[at] * gamma[column] * (x[at] * inverse);
        column += lanes;
    }
    let along = sum_of_lanes::<f32>(along, lanes, plan.slots, plan.shuffle);
    let along = along / f32::cast_from(d);
    let mut column = UNIT_POS_X as usize;
    while column < d {
        let at = first + column;
        dx[at] = inverse * (dy[at] * gamma[column] - x[at] * inverse * along);
        column += lanes;
    }
    if UNIT_POS_X == 0 {
        inverses[row] = inverse;
    }
}

#[cube(launch)]
pub(crate) fn norm_columns_dx(
    x: &[f32],  // [rows, d]
    dy: &[f32], // [rows, d]
    inverses: &[f32],
    sums: &mut [f32], // [parts, d]
    rows: u32,
    d: u32,
    #[comptime] units: usize,
) {
    let (rows, d) = (rows as usize, d as usize);
    let column = CUBE_POS_X as usize * units + UNIT_POS as usize;
    if column >= d {
        terminate!();
    }
    let part = CUBE_POS_Y as usize;
    let end = select((part + 1) * PART < rows, (part + 1) * PART, rows);
    let mut sum = f32::new(0.0_f32);
    let mut row = part * PART;
    while row < end {
        let at = row * d + column;
        sum += dy[at] * (x[at] * inverses[row]);
        row += 1;
    }
    sums[part * d + column] = sum;
}
