//! The site agent as a program: its two processes, its loop against a coordinator that is made up,
//! its command line, and the wall between its halves.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod agent;
mod believes;
mod cache;
mod cli;
mod data_check;
mod dicom;
mod dry_run;
mod early;
mod evaluate;
mod exchange;
mod fake;
mod gpu;
mod inpaint;
mod lineage;
mod model;
mod overfit;
mod policy;
mod preview;
mod resume;
mod shared_data;
mod site;
mod trainer;
mod wall;
