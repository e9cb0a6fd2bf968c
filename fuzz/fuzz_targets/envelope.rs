//! Any bytes as `hostile::envelope` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::envelope::any(bytes);
});
