//! The operations on plain slices, shared by the CPU backends.

use crate::packing::words;
use crate::quantize::{WeightQuantizer, ternarize_unchecked};
use crate::{Granularity, ScreenView, TableFormat, TableSpec, TableView, TernarySpec, cpu};

/// A packed weight.
pub(super) struct Weight<'a> {
    pub(super) codes: cpu::Codes<'a>,
    pub(super) scale: &'a [f32],
    pub(super) d_out: usize,
    pub(super) spec: TernarySpec,
}

/// `y [rows, d_out]`.
pub(super) fn ternary_linear(
    x: &[f32],
    codes: cpu::Codes<'_>,
    scale: &[f32],
    d_out: usize,
    spec: TernarySpec,
) -> Vec<f32> {
    let weight = Weight {
        codes,
        scale,
        d_out,
        spec,
    };
    let [y] = ternary_linears(x, &[weight]);
    y
}

/// One input with several weights of one width and one quantizer of activations: it is quantized once.
pub(super) fn ternary_linears<const N: usize>(
    x: &[f32],
    weights: &[Weight<'_>; N],
) -> [Vec<f32>; N] {
    let same = |weight: &Weight<'_>| weight.spec.activations == weights[0].spec.activations;
    assert!(weights.iter().all(same), "one input is quantized one way");
    let kernel = cpu::kernel();
    let mut quantized = None;
    let product = |weight: &Weight<'_>| {
        let Weight {
            codes,
            scale,
            d_out,
            spec,
        } = *weight;
        let mut y = vec![0.0; x.len() / spec.d_in * d_out];
        match spec.activations.limit() {
            Some(limit) => {
                let x = quantized
                    .get_or_insert_with(|| cpu::Activations::quantize(kernel, x, spec.d_in, limit));
                cpu::ternary_linear(kernel, x, codes, d_out, spec.granularity, scale, &mut y);
            }
            None => {
                let TernarySpec {
                    d_in, granularity, ..
                } = spec;
                cpu::ternary_linear_float(x, codes, d_out, d_in, granularity, scale, &mut y)
            }
        }
        y
    };
    weights.each_ref().map(product)
}

/// `dx [rows, d_in]`.
pub(super) fn ternary_linear_dx(
    dy: &[f32],
    codes: cpu::Codes<'_>,
    scale: &[f32],
    d_out: usize,
    spec: TernarySpec,
) -> Vec<f32> {
    let mut dx = vec![0.0; dy.len() / d_out * spec.d_in];
    cpu::ternary_linear_dx(
        dy,
        codes,
        d_out,
        spec.d_in,
        spec.granularity,
        scale,
        &mut dx,
    );
    dx
}

/// Words and scales.
pub(super) fn ternarize(
    latent: &[f32],
    d_in: usize,
    quantizer: WeightQuantizer,
    granularity: Granularity,
) -> (Vec<u32>, Vec<f32>) {
    let (trits, scale) = ternarize_unchecked(latent, d_in, quantizer, granularity);
    (words::pack_rows(&trits, d_in), scale)
}

/// Rows of a table, `[ids, columns]`.
pub(super) fn table_rows(ids: &[i32], codes: &[u32], scale: &[f32], spec: TableSpec) -> Vec<f32> {
    let table = table(codes, scale, spec);
    let mut rows = vec![0.0; ids.len() * spec.columns];
    cpu::table_rows(ids, &table, &mut rows);
    rows
}

/// `y [rows of x, rows of the table]`.
pub(super) fn table_linear(x: &[f32], codes: &[u32], scale: &[f32], spec: TableSpec) -> Vec<f32> {
    let table = table(codes, scale, spec);
    let mut y = vec![0.0; x.len() / spec.columns * table.rows()];
    cpu::table_linear(cpu::kernel(), x, &table, &mut y);
    y
}

/// The same of rows that may be among the `leading` largest, −∞ elsewhere. The screen: codes, scales, errors.
pub(super) fn table_leading(
    x: &[f32],
    codes: &[u32],
    scale: &[f32],
    screen: (&[u32], &[f32], &[f32]),
    spec: TableSpec,
    leading: usize,
) -> Vec<f32> {
    let int8 = TableSpec {
        format: TableFormat::Int8,
        ..spec
    };
    let screen = ScreenView {
        table: table(screen.0, screen.1, int8),
        error: screen.2,
    };
    let table = table(codes, scale, spec);
    let mut y = vec![0.0; x.len() / spec.columns * table.rows()];
    cpu::table_leading(cpu::kernel(), x, &table, &screen, leading, &mut y);
    y
}

fn table<'a>(codes: &'a [u32], scale: &'a [f32], spec: TableSpec) -> TableView<'a> {
    let TableSpec { format, columns } = spec;
    let rows = codes.len() / format.words_per_row(columns);
    TableView::new(format, codes, scale, rows, columns)
}
