//! The processor's part of training: what is there because burn's own back end is slow.
//!
//! - [`profile`]: which operation a step's time goes to, when somebody asks.
//!
//! Nothing here knows a network, a scan or a plan.

pub mod profile;
