//! Activations to integers on the device: a [`Team`] takes a row and holds it.
//!
//! `s = limit / max(max|x|, 1e-5)`, `q = clamp(round(x·s), -limit - 1, limit)`, bit for bit as
//! [`quantize::absmax`](crate::quantize::absmax): the maximum runs over bit patterns, so NaN wins, and the
//! quotient is correctly rounded on every device. Also sums each row, since kernels multiply codes 0, 1, 2.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{INFINITY_BITS, quotient};
use super::rows::team::{
    self, Team, column_of, largest_of_row, load_block, row_of, sum_of_row, unit_of,
};
use super::{Capabilities, buffer};
use crate::packing::words::words_per_row;

/// Order of the quantized columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// As they come.
    Rows,
    /// `[4, words / 4]` chunks of sixteen columns: first those of each 128-bit weight vector's first word, then of the
    /// second words, and so on. Units that read neighbouring weight vectors then read neighbouring activations.
    Planes,
}

/// Quantized rows on a device.
#[derive(Debug, Clone)]
pub struct Int8Rows {
    /// `[rows, 4·words]` i32, four int8 each, in the order of a [`Layout`]; columns beyond `d_in` are 0.
    pub values: Handle,
    /// `s` of each row, f32.
    pub scale: Handle,
    /// `Σ q` of each row, i32.
    pub sum: Handle,
}

impl Int8Rows {
    /// Room for `rows` rows.
    pub fn empty(client: &Client, rows: usize, d_in: usize) -> Self {
        Self {
            values: client.empty(rows * words_per_row(d_in) * 16),
            scale: client.empty(rows * 4),
            sum: client.empty(rows * 4),
        }
    }
}

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Who takes a row.
    pub team: Team,
    /// Order of the quantized columns.
    pub layout: Layout,
    /// Largest code.
    pub limit: i8,
}

/// Numbers of a row that a unit holds.
const HELD: usize = 64;

/// Quantizes `x [rows, d_in]` of element type `dtype` to codes up to `limit`, in int8 whatever it is.
pub fn quantize(
    client: &Client,
    device: &Capabilities,
    x: Handle,
    (rows, d_in): (usize, usize),
    dtype: ElemType,
    layout: Layout,
    limit: i8,
) -> Int8Rows {
    let out = Int8Rows::empty(client, rows, d_in);
    let quads = words_per_row(d_in) * 4;
    let vector = team::vector(client, d_in, dtype);
    let span = vector.max(4);
    let plan = Blueprint {
        team: Team::of(device, quads * 4, vector, span, HELD).of_few(rows, quads * 4, device),
        layout,
        limit,
    };
    // SAFETY: the kernel takes rows below `rows` alone, and of them columns below `d_in` of `x` and `4 * quads` of the values.
    #[allow(unsafe_code)]
    unsafe {
        quantize_rows::launch_unchecked(
            client,
            plan.team.cubes(rows),
            plan.team.plan.dim(),
            vector,
            span / 4,
            buffer(&x, rows * d_in / vector),
            buffer(&out.values, rows * quads / (span / 4)),
            buffer(&out.scale, rows),
            buffer(&out.sum, rows),
            rows as u32,
            d_in as u32,
            quads as u32,
            plan,
            dtype,
        );
    }
    out
}

#[cube(launch_unchecked)]
pub(crate) fn quantize_rows<F: Float, V: Size, W: Size>(
    x: &[Vector<F, V>],            // [rows, d_in]
    values: &mut [Vector<i32, W>], // [rows, quads]
    scales: &mut [f32],
    sums: &mut [i32],
    rows: u32,
    d_in: u32,
    quads: u32,
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let team = comptime!(plan.team);
    let words = comptime!(team.span / 4);
    let row = row_of(rows as usize, team);
    let (d_in, quads) = (d_in as usize, quads as usize);
    let mut held = Array::<f32>::new(comptime!(team.held()));
    let largest = largest_bits::<F, V>(x, &mut held, row * d_in, d_in, team);
    let healthy = largest < INFINITY_BITS;
    let scale = scale_of(largest, plan.limit);

    let mut sum = 0i32;
    let mut block = 0usize;
    while block < quads * 4 {
        if comptime!(!team.once) {
            load_block::<F, V>(x, &mut held, row * d_in, block, d_in, team);
        }
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            let mut out = Vector::<i32, W>::empty();
            #[unroll]
            for i in 0..words {
                let mut word = 0u32;
                #[unroll]
                for j in 0..4usize {
                    let value = held[comptime!(turn * team.span + i * 4 + j)];
                    let q = i32::cast_from(code_of(value, scale, plan.limit));
                    let q = select(healthy, q, 0i32);
                    sum += q;
                    word |= (u32::cast_from(q) & 0xFFu32) << (8u32 * j as u32);
                }
                out.insert(i, i32::cast_from(word));
            }
            if column < quads * 4 {
                let quad = column / 4;
                let place = match comptime!(plan.layout) {
                    Layout::Rows => quad,
                    // The words of a span are neighbours here as well.
                    Layout::Planes => (quad / 4 % 4) * (quads / 4) + (quad / 16) * 4 + quad % 4,
                };
                values[(row * quads + place) / words] = out;
            }
        }
        block += comptime!(team.block());
    }
    let sum = sum_of_row::<i32>(sum, team);
    if unit_of(team) == 0 {
        scales[row] = scale;
        sums[row] = sum;
    }
}

/// The bits of the largest magnitude of the row that begins at `first`, whose last block stays held.
#[cube]
fn largest_bits<F: Float, V: Size>(
    x: &[Vector<F, V>],
    held: &mut Array<f32>,
    first: usize,
    d_in: usize,
    #[comptime] team: Team,
) -> u32 {
    let mut largest = 0u32;
    let mut block = 0usize;
    while block < d_in {
        load_block::<F, V>(x, held, first, block, d_in, team);
        #[unroll]
        for i in 0..comptime!(team.held()) {
            let bits = u32::reinterpret(held[i]) & 0x7FFF_FFFFu32;
            largest = select(bits > largest, bits, largest);
        }
        block += comptime!(team.block());
    }
    largest_of_row::<u32>(largest, team)
}

/// The scale of a row from the bits of its largest magnitude. NaN stays NaN, infinity gives 0; both make quotients NaN.
#[cube]
fn scale_of(largest: u32, #[comptime] limit: i8) -> f32 {
    let floor = u32::reinterpret(f32::new(1e-5_f32));
    let amax = f32::reinterpret(select(largest > floor, largest, floor));
    let damaged = select(largest == INFINITY_BITS, f32::new(0.0_f32), amax);
    let scale = quotient(comptime!(limit as u32), amax);
    select(largest < INFINITY_BITS, scale, damaged)
}

/// The code of a number, as a float.
#[cube]
fn code_of(value: f32, scale: f32, #[comptime] limit: i8) -> f32 {
    let least = f32::new(comptime!(-f32::from(limit) - 1.0));
    let most = f32::new(comptime!(f32::from(limit)));
    clamp(Round::round(value * scale), least, most)
}

/// Writes `q(x) / s` for `x [rows, d_in]`, of these element types: what a product with codes up to `limit` sees of its input.
pub fn fake_quantize(
    client: &Client,
    device: &Capabilities,
    x: &Handle,
    seen: &Handle,
    (rows, d_in): (usize, usize),
    [dtype, seen_dtype]: [ElemType; 2],
    limit: i8,
) {
    let vector = team::vector(client, d_in, dtype);
    let team = Team::of(device, d_in, vector, vector, HELD).of_few(rows, d_in, device);
    // SAFETY: the kernel takes rows below `rows` and columns below `d_in` alone.
    #[allow(unsafe_code)]
    unsafe {
        fake_quantize_rows::launch_unchecked(
            client,
            team.cubes(rows),
            team.plan.dim(),
            vector,
            buffer(x, rows * d_in / vector),
            buffer(seen, rows * d_in / vector),
            rows as u32,
            d_in as u32,
            team,
            limit,
            dtype,
            seen_dtype,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn fake_quantize_rows<F: Float, S: Float, V: Size>(
    x: &[Vector<F, V>],        // [rows, d_in]
    seen: &mut [Vector<S, V>], // [rows, d_in]
    rows: u32,
    d_in: u32,
    #[comptime] team: Team,
    #[comptime] limit: i8,
    #[define(F)] _dtype: ElemType,
    #[define(S)] _seen_dtype: ElemType,
) {
    let d_in = d_in as usize;
    let first = row_of(rows as usize, team) * d_in;
    let mut held = Array::<f32>::new(comptime!(team.held()));
    let largest = largest_bits::<F, V>(x, &mut held, first, d_in, team);
    let scale = scale_of(largest, limit);
    let mut block = 0usize;
    while block < d_in {
        if comptime!(!team.once) {
            load_block::<F, V>(x, &mut held, first, block, d_in, team);
        }
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            if column < d_in {
                let mut out = Vector::<S, V>::empty();
                #[unroll]
                for j in 0..comptime!(team.span) {
                    let q = code_of(held[comptime!(turn * team.span + j)], scale, limit);
                    out.insert(j, S::cast_from(q / scale));
                }
                seen[(first + column) / comptime!(team.span)] = out;
            }
        }
        block += comptime!(team.block());
    }
}
