//! Any bytes as `hostile::token` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::token::any(bytes);
});
