//! What an allocator keeps of memory that is free, for what a transfer takes next.
//!
//! A transfer takes and frees pieces of 64 KiB without end. glibc gives memory back to the system as soon as 128 KiB
//! at the end of an arena are free, and asks for it again with the next piece: every page of it is then made anew,
//! for each piece that moves. What is kept instead was in use a moment before, and is so again in the next.

/// How much that is free at the end of an arena is kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 8 << 20;

/// How much more than is wanted is asked for at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const AHEAD_BYTES: libc::c_int = 1 << 20;

/// From how many bytes on a piece comes from the system by itself: glibc's own first choice, which it would raise
/// once one of them was freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 128 << 10;

/// Has the allocator keep room for what is moved. To be called before there is a second thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc's allocator can be told in no other way")]
pub fn keep_room() {
    let told = [
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (libc::M_TOP_PAD, AHEAD_BYTES),
        (libc::M_MMAP_THRESHOLD, LARGE_BYTES),
    ];
    for (what, value) in told {
        // SAFETY: mallopt(3) takes two numbers and sets a limit; no memory is touched.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Other allocators have other ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_room() {}
