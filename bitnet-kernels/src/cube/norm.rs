//! RMS norms and their gradients: a team of units takes a row and holds it.
//!
//! `y = γ·(x·r)`, `r = 1/√(mean(x²) + ε)`. With `x̂ = x·r` and `g = dy·γ`: `dx = r·(g − x̂·mean(g·x̂))`, `dγ = Σ dy·x̂` over rows.
//! A cube takes [`PART`] rows one after the other and adds up their `dγ` as it goes. All numbers are f32.

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::last_of;
use super::rows::team::{self, Team, column_of, load_block, row_of, sum_of_row, unit_of};
use super::{Capabilities, buffer, cube_count};

/// Rows whose contributions to `dγ` one cube adds up.
const PART: usize = 32;
/// Numbers of a row that a unit holds, of each tensor, before a cube takes rows.
const HELD: usize = 32;

/// Parts of so many rows.
pub const fn parts(rows: usize) -> usize {
    rows.div_ceil(PART)
}

/// A team that holds rows of `d`.
fn team(client: &Client, d: usize) -> Team {
    let vector = team::vector(client, d, ElemType::Float(FloatKind::F32));
    Team::of(&Capabilities::of(client), d, vector, vector, HELD).holding(d)
}

/// Writes the norm of `rows` rows of `d`. `tensors` are x, γ and y.
pub fn forward(client: &Client, tensors: [&Handle; 3], (rows, d): (usize, usize), epsilon: f32) {
    let team = team(client, d);
    let [x, gamma, y] = tensors;
    // SAFETY: the kernel takes rows below `rows` and columns below `d` alone.
    #[allow(unsafe_code)]
    unsafe {
        norm_rows::launch_unchecked(
            client,
            team.cubes(rows),
            team.plan.dim(),
            team.vector,
            buffer(x, rows * d / team.vector),
            buffer(gamma, d / team.vector),
            buffer(y, rows * d / team.vector),
            rows as u32,
            d as u32,
            epsilon,
            team,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn norm_rows<V: Size>(
    x: &[Vector<f32, V>], // [rows, d]
    gamma: &[Vector<f32, V>],
    y: &mut [Vector<f32, V>], // [rows, d]
    rows: u32,
    d: u32,
    epsilon: f32,
    #[comptime] team: Team,
) {
    let span = comptime!(team.span);
    let d = d as usize;
    let first = row_of(rows as usize, team) * d;
    let mut held = Array::<f32>::new(comptime!(team.held()));
    load_block::<f32, V>(x, &mut held, first, 0usize, d, team);
    let mut squares = f32::new(0.0_f32);
    #[unroll]
    for i in 0..comptime!(team.held()) {
        squares += held[i] * held[i];
    }
    let inverse = inverse_root(sum_of_row::<f32>(squares, team), d, epsilon);
    #[unroll]
    for turn in 0..comptime!(team.turns) {
        let column = column_of(0usize, turn, team);
        if column < d {
            let factors = gamma[column / span];
            let mut out = Vector::<f32, V>::empty();
            #[unroll]
            for j in 0..span {
                out.insert(
                    j,
                    held[comptime!(turn * span + j)] * inverse * factors.extract(j),
                );
            }
            y[(first + column) / span] = out;
        }
    }
}

/// `1/√(mean(x²) + ε)` of a row with the sum of its squares.
#[cube]
fn inverse_root(squares: f32, d: usize, epsilon: f32) -> f32 {
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
    let team = team(client, d);
    let [x, gamma, dy] = inputs;
    let [dx, dgamma] = outputs;
    // SAFETY: the kernel takes parts of `rows`, rows below `rows` and columns below `d` alone.
    #[allow(unsafe_code)]
    unsafe {
        norm_rows_dx::launch_unchecked(
            client,
            cube_count(parts(rows)),
            team.plan.dim(),
            team.vector,
            buffer(x, rows * d / team.vector),
            buffer(gamma, d / team.vector),
            buffer(dy, rows * d / team.vector),
            buffer(dx, rows * d / team.vector),
            buffer(dgamma, parts(rows) * d),
            rows as u32,
            d as u32,
            epsilon,
            team,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn norm_rows_dx<V: Size>(
    x: &[Vector<f32, V>], // [rows, d]
    gamma: &[Vector<f32, V>],
    dy: &[Vector<f32, V>],     // [rows, d]
    dx: &mut [Vector<f32, V>], // [rows, d]
    dgamma: &mut [f32],        // [parts, d]
    rows: u32,
    d: u32,
    epsilon: f32,
    #[comptime] team: Team,
) {
    let span = comptime!(team.span);
    let at_a_time = comptime!(team.rows());
    let (rows, d) = (rows as usize, d as usize);
    // The cube's own teams, of which a whole cube is one.
    let slot = if comptime!(team.whole) {
        0usize.runtime()
    } else {
        UNIT_POS_Y as usize
    };
    let mut held = Array::<f32>::new(comptime!(team.held()));
    let mut dheld = Array::<f32>::new(comptime!(team.held()));
    let mut sums = Array::<f32>::new(comptime!(team.held()));
    #[unroll]
    for i in 0..comptime!(team.held()) {
        sums[i] = f32::new(0.0_f32);
    }

    let mut done = 0usize;
    while done < PART {
        // Teams beyond the last row do it once more, and leave it out of the sums.
        let row = CUBE_POS * PART + done + slot;
        let counts = done + slot < PART && row < rows;
        let first = last_of(row, rows) * d;
        load_block::<f32, V>(x, &mut held, first, 0usize, d, team);
        load_block::<f32, V>(dy, &mut dheld, first, 0usize, d, team);
        let mut squares = f32::new(0.0_f32);
        let mut along = f32::new(0.0_f32);
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(0usize, turn, team);
            if column < d {
                let factors = gamma[column / span];
                #[unroll]
                for j in 0..span {
                    let i = comptime!(turn * span + j);
                    squares += held[i] * held[i];
                    along += dheld[i] * factors.extract(j) * held[i];
                }
            }
        }
        let inverse = inverse_root(sum_of_row::<f32>(squares, team), d, epsilon);
        let along = sum_of_row::<f32>(along, team) * inverse / f32::cast_from(d);
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(0usize, turn, team);
            if column < d {
                let factors = gamma[column / span];
                let mut out = Vector::<f32, V>::empty();
                #[unroll]
                for j in 0..span {
                    let i = comptime!(turn * span + j);
                    let normed = held[i] * inverse;
                    let g = dheld[i] * factors.extract(j);
                    out.insert(j, inverse * (g - normed * along));
                    sums[i] += select(counts, dheld[i] * normed, f32::new(0.0_f32));
                }
                dx[(first + column) / span] = out;
            }
        }
        done += at_a_time;
    }

    let to = CUBE_POS * d;
    let inside = CUBE_POS * PART < rows;
    if comptime!(team.whole) {
        #[unroll]
        for i in 0..comptime!(team.held()) {
            let column = column_of(0usize, comptime!(i / span), team) + comptime!(i % span);
            if inside && column < d {
                dgamma[to + column] = sums[i];
            }
        }
    } else {
        // The teams' sums of as many columns as a team takes in a turn, added in their order.
        let width = comptime!(team.units() * team.span);
        let mut all = Shared::<[f32]>::new_slice(comptime!(team.plan.units() * team.span));
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            sync_cube();
            #[unroll]
            for j in 0..span {
                all[slot * width + unit_of(team) * span + j] = sums[comptime!(turn * span + j)];
            }
            sync_cube();
            let mut own = UNIT_POS as usize;
            while own < width {
                let mut sum = all[own];
                #[unroll]
                for other in 1..comptime!(team.plan.slots) {
                    sum += all[other * width + own];
                }
                let column = comptime!(turn * width) + own;
                if inside && column < d {
                    dgamma[to + column] = sum;
                }
                own += comptime!(team.plan.units());
            }
        }
    }
}
