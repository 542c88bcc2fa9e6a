//! Latent weights to scales and canonical words on the device, in two launches: sums of parts, then one word per unit.
//!
//! `T = clamp(round(W · (1/m)), -1, 1)`, `m = max(mean|W|, 1e-5)` with the quotient correctly rounded, or `T = W > mean ? 1 : -1`.
//! A part is a group, a row, or one of up to [`PARTS`] pieces of a weight with one scale; its sum has one order. A non-finite
//! scale gives zero trits, so that products with it are not finite either.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{INFINITY_BITS, quotient};
use super::rows::team::{self, Team, load_block, row_of, sum_of_row, unit_of};
use super::{Capabilities, buffer, cube_count, scale_span, scale_stride};
use crate::packing::words::words_per_row;
use crate::quantize::EPSILON;
use crate::{Granularity, WeightQuantizer};

/// Largest scale whose reciprocal is a normal float.
const LARGEST_NORMAL: f32 = 8.507_059e37;

/// Pieces of a weight with one scale, at most: few enough for a cube to add them up beside its words.
const PARTS: usize = 256;
/// Numbers that a unit loads before it adds the first.
const AHEAD: usize = 16;

/// The decisions of both launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Who sums a part.
    pub team: Team,
    /// Which quantizer.
    pub quantizer: WeightQuantizer,
    /// Whether the whole weight has one scale.
    pub single: bool,
}

/// How a weight falls into parts: rows of `columns`, each cut into pieces of `size`.
#[derive(Debug, Clone, Copy)]
struct Parts {
    rows: usize,
    columns: usize,
    size: usize,
}

impl Parts {
    fn of(granularity: Granularity, (d_out, d_in): (usize, usize)) -> Self {
        let (rows, columns, size) = match granularity {
            Granularity::Tensor => {
                let all = d_out * d_in;
                (1, all, all.div_ceil(PARTS).next_multiple_of(1024))
            }
            Granularity::Row => (d_out, d_in, d_in),
            Granularity::Group(size) => (d_out, d_in, size),
        };
        Self {
            rows,
            columns,
            size,
        }
    }

    const fn count(&self) -> usize {
        self.rows * self.columns.div_ceil(self.size)
    }
}

/// Packs `latent [d_out, d_in]` of element type `dtype`. `tensors` are the latent weight, its scales and its words.
pub fn launch(
    client: &Client,
    tensors: [&Handle; 3],
    (d_out, d_in): (usize, usize),
    quantizer: WeightQuantizer,
    granularity: Granularity,
    dtype: ElemType,
) {
    let [latent, scale, codes] = tensors;
    let parts = Parts::of(granularity, (d_out, d_in));
    let count = parts.count();
    let vector = team::vector(client, d_in, dtype);
    let device = Capabilities::of(client);
    let single = granularity == Granularity::Tensor;
    let plan = Blueprint {
        // Pieces of a weight with one scale are so long that whole cubes take them.
        team: Team::of(&device, parts.size, vector, vector, AHEAD),
        quantizer,
        single,
    };
    let sums = client.empty(2 * count * 4);
    // SAFETY: the kernel takes parts below `count` alone, and of them columns below the end of their row.
    #[allow(unsafe_code)]
    unsafe {
        part_sums::launch_unchecked(
            client,
            plan.team.cubes(count),
            plan.team.plan.dim(),
            vector,
            buffer(latent, d_out * d_in / vector),
            buffer(&sums, 2 * count),
            count as u32,
            parts.columns as u32,
            parts.size as u32,
            plan,
            dtype,
        );
    }
    let words = words_per_row(d_in);
    let units = plan.team.plan.units();
    // SAFETY: the kernel takes words below `d_out * words` alone, and of them columns below `d_in`.
    #[allow(unsafe_code)]
    unsafe {
        pack_words::launch_unchecked(
            client,
            cube_count((d_out * words).div_ceil(units)),
            plan.team.plan.dim(),
            vector,
            buffer(latent, d_out * d_in / vector),
            buffer(&sums, 2 * count),
            buffer(scale, granularity.count(d_out, d_in)),
            buffer(codes, d_out * words),
            d_out as u32,
            d_in as u32,
            words as u32,
            count as u32,
            scale_span(granularity, d_in) as u32,
            scale_stride(granularity, d_in) as u32,
            plan,
            dtype,
        );
    }
}

/// Writes `Σ|w|` of each part, and behind them, for [`WeightQuantizer::Sign`], `Σ w`.
#[cube(launch_unchecked)]
pub(crate) fn part_sums<F: Float, V: Size>(
    latent: &[Vector<F, V>], // rows of columns
    sums: &mut [f32],        // [2, parts]
    parts: u32,
    columns: u32,
    size: u32,
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let team = comptime!(plan.team);
    let signed = comptime!(plan.quantizer == WeightQuantizer::Sign);
    let (parts, columns, size) = (parts as usize, columns as usize, size as usize);
    let per_row = columns.div_ceil(size);
    let part = row_of(parts, team);
    let begin = part % per_row * size;
    let end = min(begin + size, columns);
    let first = part / per_row * columns;
    let mut held = Array::<f32>::new(comptime!(team.held()));
    // One sum for each number of a load: short chains, and small errors.
    let mut magnitudes = Array::<f32>::new(team.span);
    let mut values = Array::<f32>::new(team.span);
    #[unroll]
    for j in 0..comptime!(team.span) {
        magnitudes[j] = f32::new(0.0_f32);
        values[j] = f32::new(0.0_f32);
    }
    let mut block = begin;
    while block < end {
        load_block::<F, V>(latent, &mut held, first, block, end, team);
        #[unroll]
        for i in 0..comptime!(team.held()) {
            magnitudes[comptime!(i % team.span)] += held[i].abs();
            if comptime!(signed) {
                values[comptime!(i % team.span)] += held[i];
            }
        }
        block += comptime!(team.block());
    }
    let magnitude = sum_of_row::<f32>(total(&magnitudes, team.span), team);
    if unit_of(team) == 0 {
        sums[part] = magnitude;
    }
    if comptime!(signed) {
        let value = sum_of_row::<f32>(total(&values, team.span), team);
        if unit_of(team) == 0 {
            sums[parts + part] = value;
        }
    }
}

#[cube]
fn total(numbers: &Array<f32>, #[comptime] count: usize) -> f32 {
    let mut sum = numbers[0];
    #[unroll]
    for i in 1..count {
        sum += numbers[i];
    }
    sum
}

#[cube(launch_unchecked)]
pub(crate) fn pack_words<F: Float, V: Size>(
    latent: &[Vector<F, V>], // [d_out, d_in]
    sums: &[f32],            // [2, parts]
    scale: &mut [f32],
    codes: &mut [u32], // [d_out, words]
    d_out: u32,
    d_in: u32,
    words: u32,
    parts: u32,
    scale_span: u32,   // columns per scale
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let vector = comptime!(plan.team.vector);
    let (d_out, d_in, words) = (d_out as usize, d_in as usize, words as usize);
    let (parts, span) = (parts as usize, scale_span as usize);
    let at = CUBE_POS * comptime!(plan.team.plan.units()) + UNIT_POS as usize;
    let inside = at < d_out * words;
    let at = select(inside, at, 0usize);
    let row = at / words;
    let first = at % words * 16;
    // A word lies in one group, because groups are multiples of 32 columns.
    let group = select(first < d_in, first, d_in - 1) / span;
    let which = row * scale_stride as usize + group;

    let absmean = comptime!(plan.quantizer == WeightQuantizer::AbsMean);
    let count = if comptime!(plan.single) {
        f32::cast_from(d_out) * f32::cast_from(d_in)
    } else {
        f32::cast_from(min(span, d_in - group * span))
    };
    let mean = sum_of_parts(sums, 0usize, parts, which, plan) / count;
    let m = if comptime!(absmean) {
        // NaN has larger bits than the floor, and stays.
        let bits = u32::reinterpret(mean) & 0x7FFF_FFFFu32;
        let floor = u32::reinterpret(f32::new(EPSILON));
        f32::reinterpret(select(bits > floor, bits, floor))
    } else {
        mean
    };
    let middle = if comptime!(absmean) {
        m
    } else {
        sum_of_parts(sums, parts, parts, which, plan) / count
    };
    let healthy = (u32::reinterpret(m) & 0x7FFF_FFFFu32) < INFINITY_BITS;
    let normal = m < f32::new(LARGEST_NORMAL);
    let inverse = select(normal, quotient(1u32, m), f32::new(1.0_f32) / m);

    let mut word = 0u32;
    #[unroll]
    for part in 0..comptime!(16 / vector) {
        let column = first + part * vector;
        let at = select(column < d_in, column, 0usize);
        let loaded = latent[(row * d_in + at) / vector];
        #[unroll]
        for j in 0..vector {
            let w = f32::cast_from(loaded.extract(j));
            let trit = match comptime!(plan.quantizer) {
                WeightQuantizer::AbsMean => {
                    let rounded = Round::round(w * inverse);
                    i32::cast_from(clamp(rounded, f32::new(-1.0_f32), f32::new(1.0_f32)))
                }
                WeightQuantizer::Sign => select(w > middle, 1i32, -1i32),
            };
            let trit = select(column < d_in && healthy, trit, 0i32);
            let l = comptime!(part * vector + j);
            word |= u32::cast_from(trit + 1i32) << (comptime!(8 * (l % 4) + 2 * (l / 4)) as u32);
        }
    }
    if inside {
        codes[at] = word;
        // The first word of a scale's columns writes it.
        if first == group * span && (row == 0 || scale_stride > 0) {
            scale[which] = m;
        }
    }
}

/// The sum of a scale's parts, of which the first lies at `offset`: of all, or the one of its own.
#[cube]
fn sum_of_parts(
    sums: &[f32],
    offset: usize,
    parts: usize,
    which: usize,
    #[comptime] plan: Blueprint,
) -> f32 {
    if comptime!(plan.single) {
        let mut sum = f32::new(0.0_f32);
        let mut part = UNIT_POS as usize;
        while part < parts {
            sum += sums[offset + part];
            part += comptime!(plan.team.plan.units());
        }
        sum_of_row::<f32>(sum, plan.team)
    } else {
        sums[offset + which]
    }
}
