//! Towards clients: accepting, what a connection holds, and HTTP over it until it ends or upgrades.

pub mod addr;
pub mod certificates;
pub mod connection;
pub mod identity;
pub mod linger;
pub mod listener;
pub mod names;
pub mod per_client;
mod readiness;
pub mod seat;
pub mod secure;
mod timing;
pub mod tls;
mod watched;
