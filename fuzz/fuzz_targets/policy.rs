//! Any bytes as `hostile::policy` has it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fedpaint_fuzz::hostile::policy::any(bytes);
});
