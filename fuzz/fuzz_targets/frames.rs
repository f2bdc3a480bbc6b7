//! A cursor gives the same result however the stream is split into reads, for any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spliceway::tunnel::frames::Cursor;

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (masked, splits, stream) = input;
    let fresh = || if masked { Cursor::client() } else { Cursor::server() };
    let mut whole = fresh();
    whole.advance(&stream);
    let mut split = fresh();
    let mut rest = &stream[..];
    for length in splits {
        let (read, later) = rest.split_at(usize::from(length).min(rest.len()));
        split.advance(read);
        rest = later;
    }
    split.advance(rest);
    assert_eq!(whole, split);
});
