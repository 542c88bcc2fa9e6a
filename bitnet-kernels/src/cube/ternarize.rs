//! Latent weights to canonical words on the device, one word per unit.
//!
//! `T = clamp(round(W · (1/m)), -1, 1)` with the quotient correctly rounded, or `T = W > mean ? 1 : -1`. The means come
//! from Burn's reductions; a non-finite scale gives zero trits, so that products with it are not finite either.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{INFINITY_BITS, quotient};
use super::{buffer, cube_count, scale_span, scale_stride};
use crate::packing::words::words_per_row;
use crate::{Granularity, WeightQuantizer};

/// Largest scale whose reciprocal is a normal float.
const LARGEST_NORMAL: f32 = 8.507_059e37;

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Units of a cube.
    pub units: usize,
    /// Which quantizer.
    pub quantizer: WeightQuantizer,
}

/// Packs `latent [d_out, d_in]` of element type `dtype`, given its scales and means.
#[allow(clippy::too_many_arguments, reason = "one buffer or dimension each")]
pub fn launch(
    client: &Client,
    latent: &Handle,
    scale: &Handle,
    centre: &Handle,
    codes: &Handle,
    (d_out, d_in): (usize, usize),
    quantizer: WeightQuantizer,
    granularity: Granularity,
    dtype: ElemType,
) {
    let words = words_per_row(d_in);
    let plan = Blueprint {
        units: 64,
        quantizer,
    };
    let scales = granularity.count(d_out, d_in);
    pack_words::launch(
        client,
        cube_count((d_out * words).div_ceil(plan.units)),
        CubeDim::new_1d(plan.units as u32),
        buffer(latent, d_out * d_in),
        buffer(scale, scales),
        buffer(centre, scales),
        buffer(codes, d_out * words),
        d_out as u32,
        d_in as u32,
        words as u32,
        scale_span(granularity, d_in) as u32,
        scale_stride(granularity, d_in) as u32,
        plan,
        dtype,
    );
}

#[cube(launch)]
pub(crate) fn pack_words<F: Float>(
    latent: &[F], // [d_out, d_in]
    scale: &[f32],
    centre: &[f32],
    codes: &mut [u32], // [d_out, words]
    d_out: u32,
    d_in: u32,
    words: u32,
    scale_span: u32,   // columns per scale
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let (d_out, d_in, words) = (d_out as usize, d_in as usize, words as usize);
    let at = CUBE_POS * comptime!(plan.units) + UNIT_POS as usize;
    if at >= d_out * words {
        terminate!();
    }
    let row = at / words;
    let first = (at % words) * 16;
    // A word lies in one group, because groups are multiples of 32 columns.
    let which =
        row * scale_stride as usize + select(first < d_in, first, d_in - 1) / scale_span as usize;
    let m = scale[which];
    let middle = centre[which];
    let healthy = (u32::reinterpret(m) & 0x7FFF_FFFFu32) < INFINITY_BITS;
    let normal = m < f32::new(LARGEST_NORMAL);
    let inverse = select(normal, quotient(1u32, m), f32::new(1.0_f32) / m);

    let mut word = 0u32;
    #[unroll]
    for l in 0..16usize {
        let column = first + l;
        let inside = column < d_in;
        let index = select(inside, row * d_in + column, 0usize);
        let w = f32::cast_from(latent[index]);
        let trit = match comptime!(plan.quantizer) {
            WeightQuantizer::AbsMean => {
                let rounded = Round::round(w * inverse);
                i32::cast_from(clamp(rounded, f32::new(-1.0_f32), f32::new(1.0_f32)))
            }
            WeightQuantizer::Sign => select(w > middle, 1i32, -1i32),
        };
        let trit = select(inside && healthy, trit, 0i32);
        word |= u32::cast_from(trit + 1i32) << (comptime!(8 * (l % 4) + 2 * (l / 4)) as u32);
    }
    codes[at] = word;
}
