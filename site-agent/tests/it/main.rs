//! The site agent as a program: its two processes, its loop against a coordinator that is made up,
//! its command line, and the wall between its halves.

mod agent;
mod cli;
mod fake;
mod site;
mod trainer;
mod wall;
