//! Working memory that a thread keeps from one operation to the next.
//!
//! A step of training asks for the same few megabytes hundreds of times; fresh pages from the
//! system would cost as much as the arithmetic on them. It never holds a result.

use std::cell::RefCell;

thread_local! {
    /// A stack of buffers and not one, because a thread that waits for others may start another
    /// piece of work in the meantime.
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` values to `work`. They hold whatever an earlier user left: write before you read.
pub(super) fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = work(&mut buffer[..len]);
    KEPT.with_borrow_mut(|kept| kept.push(buffer));
    result
}
