//! Base 3 on devices: the same bits as with words from every operation, and words where no kernel reads base 3.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::packing::{Packing, base3, words};
use bitnet_kernels::{
    ActivationQuantizer, Granularity, KernelError, PackedTernary, Scale, TernaryTensor, cpu,
    ternary_linear, ternary_linear_pair,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use devices::devices;
use proptest::prelude::*;
use random::Random;

const ACTIVATIONS: [ActivationQuantizer; 3] = [
    ActivationQuantizer::Int8,
    ActivationQuantizer::Int4,
    ActivationQuantizer::None,
];
const GRANULARITIES: [Granularity; 3] = [
    Granularity::Tensor,
    Granularity::Row,
    Granularity::Group(64),
];

fn packed(
    random: &mut Random,
    granularity: Granularity,
    [d_out, d_in]: [usize; 2],
) -> PackedTernary {
    let trits = random.trits(d_out * d_in);
    let scale = random.floats(granularity.count(d_out, d_in));
    let scale = Scale::from_values(granularity, scale);
    PackedTernary::from_trits(&trits, scale, d_out, d_in).expect("a valid weight")
}

/// Base-3 bytes and scales.
fn data(packed: &PackedTernary) -> (TensorData, TensorData) {
    let (d_out, d_in) = (packed.d_out(), packed.d_in());
    let bytes = base3::pack(packed.words(), d_out, d_in);
    let scale = packed.scale().values().to_vec();
    let count = scale.len();
    (
        TensorData::new(bytes, [d_out, base3::bytes_per_row(d_in)]),
        TensorData::new(scale, [count]),
    )
}

/// Base 3 on a CPU, whether its kernel has loops for it or not.
fn kept(packed: &PackedTernary, device: &Device) -> TernaryTensor {
    let (codes, scale) = data(packed);
    let codes = Tensor::from_data(codes, (device, DType::U8));
    let scale = Tensor::from_data(scale, (device, DType::F32));
    let granularity = packed.scale().granularity();
    TernaryTensor::from_parts(codes, scale, packed.d_in(), granularity).expect("right lengths")
}

fn is_cpu(name: &str) -> bool {
    ["flex", "ndarray"].contains(&name)
}

fn cpus() -> impl Iterator<Item = (&'static str, Device)> {
    devices().into_iter().filter(|(name, _)| is_cpu(name))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

#[test]
fn outputs_and_gradients_equal_those_of_words() {
    let mut random = Random(1);
    let cases = [(1, 33, 300), (5, 17, 1290), (9, 12, 2560), (40, 70, 320)];
    for (rows, d_out, d_in) in cases {
        for granularity in GRANULARITIES {
            let packed = packed(&mut random, granularity, [d_out, d_in]);
            let x = TensorData::new(random.floats(rows * d_in), [rows, d_in]);
            for (name, device) in cpus() {
                let weights = [
                    TernaryTensor::from_packed(packed.clone(), &device),
                    kept(&packed, &device),
                ];
                for activations in ACTIVATIONS {
                    let device = device.clone().autodiff();
                    let [words, base3] = weights.each_ref().map(|weight| {
                        let x = Tensor::<2>::from_data(x.clone(), &device).require_grad();
                        let y = ternary_linear(x.clone(), weight, activations);
                        let gradients = y.clone().powf_scalar(2.0).sum().backward();
                        let dx = x.grad(&gradients).expect("a gradient");
                        (values(y), values(dx))
                    });
                    let what = format!("{name}: {rows} rows, {d_out} x {d_in}, {granularity}");
                    assert!(words == base3, "{what}, {activations:?}");
                }
                let x = Tensor::<2>::from_data(x.clone(), &device);
                let y = ternary_linear_pair(x, weights, ActivationQuantizer::Int8);
                let [words, base3] = y.map(values);
                assert!(words == base3, "{name}: one input with both packings");
            }
        }
    }
}

#[test]
fn the_matrix_comes_back_and_takes_fewer_bytes() {
    let mut random = Random(2);
    let packed = packed(&mut random, Granularity::Row, [48, 2560]);
    for (_, device) in cpus() {
        let weight = kept(&packed, &device);
        assert_eq!(weight.packing(), Packing::Base3);
        assert_eq!(weight.bytes(), 48 * (2560 / 5 + 4));
        assert_eq!(weight.to_packed().as_ref(), Ok(&packed));
        let expected = TernaryTensor::from_packed(packed.clone(), &device).dequantize();
        assert_eq!(values(weight.dequantize()), values(expected));
    }
}

#[test]
fn codes_are_base_3_only_where_a_kernel_has_loops_for_it() {
    let mut random = Random(3);
    let has_loops = cpu::kernel().base3().is_some();
    for granularity in GRANULARITIES {
        let packed = packed(&mut random, granularity, [6, 1500]);
        for (name, device) in devices() {
            let (codes, scale) = data(&packed);
            let weight = TernaryTensor::from_data(codes, scale, 1500, granularity, &device);
            let weight = weight.expect("right lengths");
            let stays = is_cpu(name) && has_loops && !matches!(granularity, Granularity::Group(_));
            let expected = Packing::ALL[usize::from(stays)];
            assert_eq!(weight.packing(), expected, "{name}, {granularity}");
            assert_eq!(weight.to_packed().as_ref(), Ok(&packed), "{name}");
            for (_, cpu) in cpus() {
                let fitting = kept(&packed, &cpu).fit(&device);
                let expected = Packing::ALL[usize::from(is_cpu(name) && has_loops)];
                assert_eq!(fitting.packing(), expected, "{name}");
                assert_eq!(fitting.to_packed().as_ref(), Ok(&packed), "{name}");
            }
        }
    }
}

#[test]
fn a_damaged_byte_on_a_device_is_named() {
    let mut random = Random(4);
    let packed = packed(&mut random, Granularity::Tensor, [3, 1280]);
    let mut bytes = base3::pack(packed.words(), 3, 1280);
    bytes[2 * 256 + 64] = 243;
    for (name, device) in cpus() {
        let codes = Tensor::from_data(
            TensorData::new(bytes.clone(), [3, 256]),
            (&device, DType::U8),
        );
        let scale = Tensor::from_data([1.0f32], &device);
        let weight = TernaryTensor::from_parts(codes, scale, 1280, Granularity::Tensor).unwrap();
        let Err(KernelError::Code {
            row, column, code, ..
        }) = weight.to_packed()
        else {
            panic!("{name}: accepted")
        };
        assert_eq!((row, column, code), (2, 256, 243), "{name}");
    }
}

#[test]
fn rows_of_another_length_are_refused() {
    for (name, device) in cpus() {
        let codes = TensorData::new(vec![121_u8; 64], [1, 64]);
        let codes = Tensor::from_data(codes, (&device, DType::U8));
        let scale = Tensor::from_data([1.0f32], &device);
        let refused = TernaryTensor::from_parts(codes, scale, 300, Granularity::Tensor);
        let Err(KernelError::Length {
            found, expected, ..
        }) = refused
        else {
            panic!("{name}: accepted")
        };
        assert_eq!((found, expected), (64, 128));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_matrix_survives_its_bytes_and_no_other_byte_is_accepted(
        d_out in 1_usize..4,
        d_in in 1_usize..3000,
        seed in any::<u64>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let trits = Random(seed).trits(d_out * d_in);
        let words = words::pack(&trits, d_out, d_in).unwrap();
        let mut bytes = base3::pack(&words, d_out, d_in);
        prop_assert_eq!(base3::check(&bytes, d_out, d_in), Ok(()));
        prop_assert_eq!(&base3::unpack(&bytes, d_out, d_in), &words);

        // Whatever passes the check is the one form of a matrix.
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if base3::check(&bytes, d_out, d_in).is_ok() {
            let words = base3::unpack(&bytes, d_out, d_in);
            prop_assert_eq!(words::check(&words, d_out, d_in), Ok(()));
            prop_assert_eq!(base3::pack(&words, d_out, d_in), bytes);
        }
    }
}
