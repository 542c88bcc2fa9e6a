//! Every GPU routine on every device that it does not refuse, against the oracle: whichever the planner would choose.

#![cfg(feature = "cube")]

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::cube::{
    Capabilities, Operands, Problem, ROUTINES, gemv, quantize, routine, tensor_cores,
};
use bitnet_kernels::{Granularity, PackedTernary, Scale, reference};
use burn::backend::DispatchDevice;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::CubeElement;
use devices::devices;
use random::Random;

const F32: ElemType = ElemType::Float(FloatKind::F32);

/// Tiles of each routine and their neighbours.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (3, 17, 130),
    (8, 130, 320),
    (17, 33, 64),
    (64, 129, 192),
    (129, 70, 640),
    (200, 260, 2560),
    (2, 5, 20000),
    (40, 2, 20002),
];

#[test]
fn integer_sums_of_every_routine_equal_the_oracle() {
    let mut random = Random(1);
    for (name, device) in devices() {
        let DispatchDevice::Cube(cube) = device.as_dispatch() else {
            continue;
        };
        let client = cube.client();
        let capabilities = Capabilities::of(&client);
        eprintln!("{name}: {capabilities:?}");
        for &(rows, d_out, d_in) in SHAPES {
            let trits = random.trits(d_out * d_in);
            let x = random.integer_rows(rows, d_in, 127);
            let (q, _) = reference::quantize(&x, d_in, 127);
            let x = client.create_from_slice(f32::as_bytes(&x));
            let granularities = [
                Granularity::Tensor,
                Granularity::Row,
                Granularity::Group(32),
                Granularity::Group(128),
            ];
            for granularity in granularities {
                // Scales that are powers of two keep the epilogue exact, so `==` holds with scales as well.
                let count = granularity.count(d_out, d_in);
                let scale = (0..count).map(|i| [1.0, 0.5, 2.0][i % 3]).collect();
                let scale = Scale::from_values(granularity, scale);
                let expected =
                    reference::ternary_linear(&q, &vec![1.0; rows], &trits, &scale, d_in);
                let packed = PackedTernary::from_trits(&trits, scale, d_out, d_in).unwrap();
                let problem = Problem {
                    rows,
                    d_out,
                    d_in,
                    granularity,
                    output: F32,
                };
                for routine in ROUTINES {
                    if (routine.refuses)(&problem, &capabilities).is_some() {
                        continue;
                    }
                    let dims = (rows, d_in);
                    let x = quantize::quantize(
                        &client,
                        &capabilities,
                        x.clone(),
                        dims,
                        F32,
                        routine.layout,
                        127,
                    );
                    let operands = Operands {
                        x,
                        codes: client.create_from_slice(u32::as_bytes(packed.words())),
                        scale: client.create_from_slice(f32::as_bytes(packed.scale().values())),
                        y: client.create_from_slice(f32::as_bytes(&vec![f32::NAN; rows * d_out])),
                    };
                    (routine.launch)(&client, &problem, &capabilities, &operands);
                    let y = client.read_one_unchecked(operands.y);
                    let wrong = f32::from_bytes(&y)
                        .iter()
                        .zip(&expected)
                        .position(|(y, e)| y != e);
                    assert!(
                        wrong.is_none(),
                        "{name}, {}: {problem:?}, element {wrong:?}",
                        routine.name
                    );
                }
            }
        }
    }
}

fn capable() -> Capabilities {
    Capabilities {
        plane: 32,
        int8_matrix: true,
        native_dot: true,
        processors: 132,
        max_units: 1024,
        shared_memory: 48 << 10,
    }
}

fn problem(rows: usize, granularity: Granularity) -> Problem {
    Problem {
        rows,
        d_out: 2560,
        d_in: 2560,
        granularity,
        output: F32,
    }
}

#[test]
fn the_planner_takes_the_best_routine_that_the_device_can_run() {
    let chosen = |rows, granularity, device: &Capabilities| {
        routine(&problem(rows, granularity), device).name
    };
    let device = capable();
    assert_eq!(chosen(1, Granularity::Tensor, &device), "gemv");
    assert_eq!(chosen(8, Granularity::Group(32), &device), "gemv");
    assert_eq!(chosen(9, Granularity::Row, &device), "tensor-cores");
    assert_eq!(
        chosen(512, Granularity::Group(128), &device),
        "tensor-cores"
    );
    assert_eq!(chosen(512, Granularity::Group(64), &device), "gemm");
    let plain = Capabilities {
        int8_matrix: false,
        native_dot: false,
        plane: 0,
        ..device
    };
    assert_eq!(chosen(1, Granularity::Tensor, &plain), "gemv");
    assert_eq!(chosen(512, Granularity::Tensor, &plain), "gemm");
}

#[test]
fn refusals_are_sentences_with_the_number_that_does_not_fit() {
    let refusal = gemv::blueprint(&problem(9, Granularity::Tensor), &capable()).unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("at most 8 rows of activations, not 9"),
        "{refusal}"
    );
    let refusal =
        tensor_cores::blueprint(&problem(512, Granularity::Group(96)), &capable()).unwrap_err();
    assert!(refusal.to_string().contains("not 96"), "{refusal}");
}
