//! Packings against fixtures of the reference libraries, byte for byte in both directions.
//!
//! A case is named `<kind>.<rows>x<columns>.<what>` with `ternary` the matrix; its shape comes from the file. I2_S
//! fixtures hold zeros after the scale, so there, too, all bytes are compared.

mod support;

use bitnet_kernels::packing::{Layout, gpu_int2::GpuInt2, hf::Hf, i2_s::I2S, tq};
use bitnet_kernels::{Scale, packing::Unpacked};
use safetensors::SafeTensors;

/// One matrix of a fixture.
struct Case {
    name: String,
    trits: Vec<i8>,
    /// The scale, or 1 where the layout has none.
    scale: f32,
    d_out: usize,
    d_in: usize,
}

impl Case {
    /// Packs and unpacks the matrix and compares with the tensor `what`.
    fn check(&self, tensors: &SafeTensors<'_>, layout: &dyn Layout, what: &str) -> Unpacked {
        let &Self {
            ref name,
            ref trits,
            scale,
            d_out,
            d_in,
        } = self;
        let expected = support::bytes(tensors, &format!("{name}.{what}"));
        let packed = layout.pack(trits, &Scale::Tensor(scale), d_out, d_in);
        assert_eq!(
            packed.as_ref(),
            Ok(&expected),
            "{name} as {}",
            layout.name()
        );
        let unpacked = layout
            .unpack(&expected, d_out, d_in)
            .expect("the fixture is whole");
        assert_eq!(&unpacked.trits, trits, "{name} from {}", layout.name());
        unpacked
    }
}

/// The cases of a kind; at least one.
fn cases(tensors: &SafeTensors<'_>, kind: &str) -> Vec<Case> {
    let names = support::cases(tensors, ".ternary").into_iter();
    let cases: Vec<_> = names
        .filter(|name| name.split('.').next() == Some(kind))
        .map(|name| {
            let [d_out, d_in] = support::matrix_shape(tensors, &format!("{name}.ternary"));
            let trits = support::i8s(tensors, &format!("{name}.ternary"));
            let scale = format!("{name}.scale");
            let has_scale = support::has(tensors, &scale);
            let scale = if has_scale {
                support::f32s(tensors, &scale)[0]
            } else {
                1.0
            };
            Case {
                name,
                trits,
                scale,
                d_out,
                d_in,
            }
        })
        .collect();
    assert!(!cases.is_empty(), "no case of {kind}");
    cases
}

#[test]
fn hf_rows_are_byte_exact_and_surplus_rows_are_minus_one() {
    let file = support::fixture("quant/packing.safetensors");
    let tensors = support::tensors(&file);
    for case in cases(&tensors, "hf_rows") {
        assert_eq!(case.check(&tensors, &Hf, "packed").scale, None);
        let all_rows = format!("{}.unpacked_all_rows", case.name);
        if support::has(&tensors, &all_rows) {
            let bytes = support::bytes(&tensors, &format!("{}.packed", case.name));
            let unpacked = Hf
                .unpack(&bytes, case.d_out.next_multiple_of(4), case.d_in)
                .unwrap();
            assert_eq!(
                unpacked.trits,
                support::i8s(&tensors, &all_rows),
                "{all_rows}"
            );
        }
    }
}

#[test]
fn gpu_int2_is_byte_exact() {
    let file = support::fixture("quant/packing.safetensors");
    let tensors = support::tensors(&file);
    for case in cases(&tensors, "gpu_int2") {
        assert_eq!(case.check(&tensors, &GpuInt2, "packed").scale, None);
    }
}

#[test]
fn i2_s_is_byte_exact_in_all_three_variants() {
    let file = support::fixture("quant/packing.safetensors");
    let tensors = support::tensors(&file);
    let variants = [
        (I2S::Block128, "block128"),
        (I2S::Block64, "block64"),
        (I2S::Rows4, "rows4"),
    ];
    for case in cases(&tensors, "i2_s") {
        for (layout, what) in &variants {
            let unpacked = case.check(&tensors, layout, what);
            assert_eq!(unpacked.scale, Some(Scale::Tensor(case.scale)));
        }
    }
}

#[test]
fn tq1_0_and_tq2_0_are_byte_exact_and_dequantize_alike() {
    let file = support::fixture("quant/packing.safetensors");
    let tensors = support::tensors(&file);
    for mut case in cases(&tensors, "tq") {
        // The reference rounds a scale to f16; we refuse to, so the rounding is done here.
        case.scale = half::f16::from_f32(case.scale).to_f32();
        for (layout, what) in [(&tq::TQ1_0, "tq1_0"), (&tq::TQ2_0, "tq2_0")] {
            let Unpacked { trits, scale } = case.check(&tensors, layout, what);
            let scale = scale.expect("the layout carries scales");
            let expected = support::f32s(&tensors, &format!("{}.{what}_dequant", case.name));
            for (at, (trit, expected)) in trits.into_iter().zip(expected).enumerate() {
                let (row, column) = (at / case.d_in, at % case.d_in);
                assert_eq!(f32::from(trit) * scale.at(row, column, case.d_in), expected);
            }
        }
    }
}
