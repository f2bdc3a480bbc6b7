//! A global allocator that counts, for a test that makes it its own:
//!
//! ```ignore
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting::new();
//! ```
//!
//! It counts for the whole process, so such a test has a file to itself and only one test in it.

#![allow(unsafe_code)] // an allocator is unsafe by its trait; every call is passed on as it came

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator with two counters. They are relaxed: read them when the threads that matter are at rest.
#[derive(Debug)]
pub struct Counting {
    allocations: AtomicUsize,
    live: AtomicUsize,
}

impl Counting {
    /// All at zero.
    pub const fn new() -> Self {
        Self { allocations: AtomicUsize::new(0), live: AtomicUsize::new(0) }
    }

    /// How often memory was asked for; growing or shrinking in place or not is one more.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Bytes that are allocated now.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    fn came(&self, bytes: usize) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    fn went(&self, bytes: usize) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to `System` with the caller's own arguments, and its result goes back unchanged; the counters
// allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here and there.
        let memory = unsafe { System.alloc(layout) };
        if !memory.is_null() {
            self.came(layout.size());
        }
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if !memory.is_null() {
            self.came(layout.size());
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: `memory` came from `System` with that layout, since all memory of this allocator does.
        let moved = unsafe { System.realloc(memory, layout, size) };
        if !moved.is_null() {
            self.went(layout.size());
            self.came(size);
        }
        moved
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(memory, layout) };
        self.went(layout.size());
    }
}
