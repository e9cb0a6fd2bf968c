//! Any bytes are a manifest or an error that says why, never a panic, and what a manifest names can
//! be named. The first byte chooses the format.

#![no_main]

use fedpaint_site_agent_fuzz::data::manifest::{self, Format, NAME_BYTES_MAX, ROWS_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let format = if first % 2 == 0 { Format::Csv } else { Format::Toml };
    match manifest::parse(rest, format) {
        Ok(manifest) => {
            assert!(manifest.rows.len() <= ROWS_MAX);
            let lines = 1 + rest.iter().filter(|&&byte| byte == b'\n').count();
            for row in manifest.rows {
                assert!((1..=NAME_BYTES_MAX).contains(&row.case.len()));
                assert!((1..=lines).contains(&row.line));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
