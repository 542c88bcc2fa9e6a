//! Every device of the enabled features that this machine has. An absent one is reported, not failed.

use std::sync::LazyLock;

use burn::tensor::{Device, DeviceType};

/// Name and device. Enumerated once: asking a driver takes longer than most tests.
pub fn devices() -> Vec<(&'static str, Device)> {
    static DEVICES: LazyLock<Vec<(&'static str, Device)>> = LazyLock::new(enumerate);
    DEVICES.clone()
}

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
        None => eprintln!("skipped: no {name} device on this machine"),
    }
}
