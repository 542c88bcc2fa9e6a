//! The weight quantizers against fixtures of the reference library: trits exactly, scales to summation order.
//!
//! A case is `<case>.w` with what the library made of it in f32 (`absmean`, `ternary`), of the same weight rounded to
//! bf16 (`bf16_*`), and in bf16 arithmetic (`bf16arith_*`). Cases with NaN or infinity have `ternary_float` instead.

mod support;

use bitnet_kernels::quantize::{self, EPSILON, WeightQuantizer};
use bitnet_kernels::{Granularity, KernelError, PackedTernary};
use safetensors::SafeTensors;

/// Runs `test` on name, weight and shape of each case that is finite or not.
fn each(finite: bool, test: impl Fn(&SafeTensors<'_>, &str, &[f32], [usize; 2])) {
    let file = support::fixture("quant/weights.safetensors");
    let tensors = support::tensors(&file);
    let mut cases = support::cases(&tensors, ".w");
    cases.retain(|case| support::has(&tensors, &format!("{case}.ternary")) == finite);
    assert!(!cases.is_empty(), "no case");
    for case in cases {
        let name = format!("{case}.w");
        let shape = support::matrix_shape(&tensors, &name);
        test(&tensors, &case, &support::f32s(&tensors, &name), shape);
    }
}

fn ternarize(weight: &[f32], [d_out, d_in]: [usize; 2]) -> Result<PackedTernary, KernelError> {
    quantize::ternarize(
        weight,
        d_out,
        d_in,
        WeightQuantizer::AbsMean,
        Granularity::Tensor,
    )
}

fn scale(packed: &PackedTernary) -> f32 {
    packed.scale().values()[0]
}

#[test]
fn absmean_gives_the_trits_and_scales_of_the_reference() {
    each(true, |tensors, case, weight, shape| {
        let rounded: Vec<f32> = weight
            .iter()
            .map(|&w| half::bf16::from_f32(w).to_f32())
            .collect();
        for (weight, kind) in [(weight, ""), (&rounded, "bf16_")] {
            let packed = ternarize(weight, shape).unwrap();
            let trits = support::i8s(tensors, &format!("{case}.{kind}ternary"));
            assert_eq!(packed.trits(), trits, "{case}.{kind}");
            let mean = support::f32s(tensors, &format!("{case}.{kind}absmean"))[0].max(EPSILON);
            assert!((scale(&packed) / mean - 1.0).abs() <= 1e-6, "{case}.{kind}");
        }
    });
}

#[test]
fn bf16_arithmetic_gives_the_trits_and_scales_of_the_reference_exactly() {
    each(true, |tensors, case, weight, shape| {
        let packed = quantize::ternarize_bf16(weight, shape[0], shape[1]).unwrap();
        let trits = support::i8s(tensors, &format!("{case}.bf16arith_ternary"));
        assert_eq!(packed.trits(), trits, "{case}");
        let inverse = support::bf16s(tensors, &format!("{case}.bf16arith_inv_scale"))[0];
        assert_eq!(scale(&packed), 1.0 / inverse, "{case}");
    });
}

#[test]
fn what_is_not_finite_is_refused_by_both() {
    each(false, |_, case, weight, shape| {
        let at = weight.iter().position(|w| !w.is_finite()).unwrap();
        for refused in [
            ternarize(weight, shape),
            quantize::ternarize_bf16(weight, shape[0], shape[1]),
        ] {
            let Err(KernelError::NonFinite { index, .. }) = refused else {
                panic!("{case}: {refused:?}")
            };
            assert_eq!(index, at, "{case}");
        }
    });
}
