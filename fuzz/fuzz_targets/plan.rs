//! Any bytes as `hostile::plan` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::plan::any(bytes);
});
