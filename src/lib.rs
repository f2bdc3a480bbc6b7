//! Spliceway: a WebSocket upgrade gateway and reverse proxy.
//!
//! This is the map; the modules stand in the order in which a connection meets them.
//!
//! # The path of a connection
//! [`gateway`] binds every address and starts the [`control`] thread and the workers. A [`worker`] accepts
//! ([`downstream::listener`]) and gives each connection a seat ([`downstream::seat`]) and an entry in the [`registry`].
//! [`downstream::connection`] serves HTTP/1.1 over it until it ends or upgrades.
//!
//! # The path of a request
//! [`proxy`] understands it ([`proxy::target`], [`proxy::framing`]), routes it ([`proxy::route`]), reads what it asks
//! ([`proxy::opening`]) and does what the route says: a [`service`] answers, or an [`upstream`] is dialled and asked
//! ([`proxy::forward`], [`proxy::upgrade`]). What goes wrong on the way is a status, chosen in [`rejection`].
//!
//! # The life of a tunnel
//! When the 101 has left, both raw streams, the seat, the use of the endpoint and the [`record`] move into a [`tunnel`]: two
//! directions, one clock, until both have ended, one was reset, or the clock or an order ends it.

pub mod gateway;

pub mod change;
pub mod control;
pub mod reload;
pub mod turns;
pub mod worker;

pub mod admin;
pub mod expiry;
pub mod metrics;
pub mod own_http;

pub mod listening;
pub mod socket;

pub mod registry;

pub mod config;
pub mod demonstration;

pub mod downstream;
pub mod proxy;
pub mod service;

pub mod upstream;

pub mod tunnel;

pub mod rejection;

pub mod cells;
pub mod record;
pub mod telemetry;
