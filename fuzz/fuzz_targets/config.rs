//! Any text is a configuration or is refused with a report that names a place.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spliceway::config::Config;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse("fuzz.toml", text, Path::new("/nonexistent")) {
        assert!(error.to_string().contains("fuzz.toml"), "{error}");
    }
});
