//! Spliceway.
pub mod config;
