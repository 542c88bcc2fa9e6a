//! Every device of the enabled features that this machine has. An absent one is reported, and fails only if the
//! comma-separated list `BITNET_REQUIRE_DEVICES` names it.

use std::sync::LazyLock;

use burn::tensor::{Device, DeviceType};

/// Name and device. Enumerated once: asking a driver takes longer than most tests.
pub(crate) fn devices() -> Vec<(&'static str, Device)> {
    static DEVICES: LazyLock<Vec<(&'static str, Device)>> = LazyLock::new(enumerate);
    DEVICES.clone()
}

#[allow(
    deprecated,
    reason = "Burn deprecates NdArray, but users still ask for it"
)]
#[allow(clippy::vec_init_then_push, reason = "one line per feature")]
fn enumerate() -> Vec<(&'static str, Device)> {
    let mut found = Vec::new();
    #[cfg(feature = "flex")]
    found.push(("flex", Device::flex()));
    #[cfg(feature = "ndarray")]
    found.push(("ndarray", Device::ndarray()));
    #[cfg(feature = "wgpu")]
    add(&mut found, "wgpu", DeviceType::Wgpu);
    #[cfg(feature = "cuda")]
    add(&mut found, "cuda", DeviceType::Cuda);
    #[cfg(feature = "rocm")]
    add(&mut found, "rocm", DeviceType::Rocm);
    found
}

#[allow(dead_code, reason = "unused without a GPU feature")]
fn add(found: &mut Vec<(&'static str, Device)>, name: &'static str, kind: DeviceType) {
    match Device::enumerate(kind).into_iter().next() {
        Some(device) => found.push((name, device)),
        None => {
            let required = std::env::var("BITNET_REQUIRE_DEVICES").unwrap_or_default();
            assert!(
                !required.split(',').any(|required| required == name),
                "no {name} device"
            );
            eprintln!("skipped: no {name} device on this machine");
        }
    }
}
