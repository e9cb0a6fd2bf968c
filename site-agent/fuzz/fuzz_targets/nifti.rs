//! Any bytes are a scan or a fault, never a panic; what is a scan can be written back over itself
//! and is then read as what it was.

#![no_main]

use fedpaint_site_agent_fuzz::data::nifti;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(scan) = nifti::decode(bytes) else { return };
    let written = nifti::encode_like(&scan.volume, &scan.geometry, "SYNTHETIC")
        .expect("a scan that was read can be written");
    let again = nifti::decode(&written).expect("what was written can be read");
    assert_eq!(again.volume.voxels, scan.volume.voxels);
    assert_eq!(again.geometry.affine(), scan.geometry.affine());
    assert_eq!(again.geometry.axis_codes(), scan.geometry.axis_codes());
});
