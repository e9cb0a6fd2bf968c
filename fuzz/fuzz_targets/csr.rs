//! Any bytes as `hostile::csr` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::csr::any(bytes);
});
