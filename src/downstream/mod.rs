//! Towards clients: accepting, what a connection holds, and HTTP over it until it ends or upgrades.

pub mod addr;
pub mod connection;
pub mod linger;
pub mod listener;
mod readiness;
pub mod seat;
pub mod tls;
