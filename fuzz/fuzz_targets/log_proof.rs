//! Any bytes as `hostile::log_proof` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::log_proof::any(bytes);
});
