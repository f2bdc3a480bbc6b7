//! What the gateway answers itself.

pub mod echo;
pub mod test_page;
