//! Any bytes as `hostile::tensors` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::tensors::any(bytes);
});
