use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Cache, Key};

fn key(name: &str) -> Key {
    blake3::hash(name.as_bytes())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let inner = folder.join(super::FOLDER);
    fs::read_dir(inner).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Makes everything in the cache look as if it was last used some time ago.
fn age(folder: &Path, seconds: u64) {
    for path in files(folder) {
        let file = fs::File::open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - Duration::from_secs(seconds)).unwrap();
    }
}

#[test]
fn what_was_stored_is_there_for_every_process_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) =
        (Cache::open(folder.path(), 1).unwrap(), Cache::open(folder.path(), 1).unwrap());
    assert!(one.load(&key("a")).is_none());
    assert!(one.store(&key("a"), b"a block").unwrap());
    let held = other.load(&key("a")).unwrap();
    assert_eq!(&held[..], b"a block");
    // Safe to delete at any moment: who holds a block keeps it, who asks again makes it again.
    fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(&held[..], b"a block");
    assert!(other.load(&key("a")).is_none());
    assert!(one.store(&key("a"), b"a block").is_err());
}

#[test]
fn a_flipped_bit_or_a_cut_makes_an_entry_absent() {
    let folder = tempfile::tempdir().unwrap();
    let whole = {
        let cache = Cache::open(folder.path(), 1).unwrap();
        cache.store(&key("a"), &[7; 300]).unwrap();
        fs::read(&files(folder.path())[0]).unwrap()
    };
    let cache = Cache::open(folder.path(), 1).unwrap();
    let path = cache.path(&key("a"));
    for bit in 0..whole.len() * 8 {
        let mut harmed = whole.clone();
        harmed[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, harmed).unwrap();
        assert!(cache.load(&key("a")).is_none(), "bit {bit}");
        assert!(!path.exists(), "the damaged entry is removed");
    }
    for length in [0, 1, 47, 48, 200, 347] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(cache.load(&key("a")).is_none(), "{length} bytes");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(&cache.load(&key("a")).unwrap()[..], [7; 300]);
}

#[test]
fn an_entry_is_read_before_it_is_mapped_and_what_does_not_read_is_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1).unwrap();
    cache.store(&key("a"), &[7; 300]).unwrap();
    let whole = fs::read(&files(folder.path())[0]).unwrap();
    assert!(super::check(&whole[..], whole.len() as u64).is_ok());
    for sector in [0, super::HEAD_BYTES, 200] {
        let failing = whole[..sector].chain(Failing);
        let error = super::check(failing, whole.len() as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "after {sector} bytes");
    }
}

/// A disk whose next sector is lost.
struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(5))
    }
}

#[test]
fn the_least_recently_used_entries_make_room_and_the_bound_holds() {
    let folder = tempfile::tempdir().unwrap();
    let block = vec![1; 300 << 10];
    let old = Cache::open(folder.path(), 1).unwrap();
    for name in ["a", "b", "c"] {
        assert!(old.store(&key(name), &block).unwrap());
    }
    age(folder.path(), 100);
    let cache = Cache::open(folder.path(), 1).unwrap();
    assert!(cache.load(&key("a")).is_some());
    assert!(cache.store(&key("d"), &block).unwrap());
    let there = |name: &str| cache.path(&key(name)).exists();
    assert!(there("a") && there("d") && (there("b") != there("c")));
    assert!(cache.store(&key("e"), &block).unwrap());
    // Nothing is left that was not used since, and room for three.
    assert!(!cache.store(&key("f"), &block).unwrap());
    assert!(there("a") && there("d") && there("e") && !there("b") && !there("c"));
    let bytes: u64 = files(folder.path()).iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(bytes <= 1 << 20, "{bytes}");
    assert!(!Cache::open(folder.path(), 0).unwrap().store(&key("g"), b"x").unwrap());
}

#[test]
fn a_filling_that_was_killed_leaves_the_finished_entries_and_no_litter() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1).unwrap();
    cache.store(&key("a"), b"whole").unwrap();
    let litter = folder.path().join(super::FOLDER).join(format!("{}x", super::UNFINISHED));
    fs::write(&litter, b"half a bl").unwrap();
    // It may be another process at work.
    assert!(Cache::open(folder.path(), 1).unwrap().load(&key("a")).is_some());
    assert!(litter.exists());
    age(folder.path(), 7200);
    assert!(Cache::open(folder.path(), 1).unwrap().load(&key("a")).is_some());
    assert!(!litter.exists());
}

#[test]
fn the_folder_is_its_owners_alone_and_a_file_in_its_place_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new/cache");
    Cache::open(&place, 1).unwrap();
    let mode = fs::metadata(place.join(super::FOLDER)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    fs::write(folder.path().join("file"), b"").unwrap();
    let refused = Cache::open(&folder.path().join("file"), 1).unwrap_err().to_string();
    assert!(refused.contains("file") && refused.contains("local disk"), "{refused}");
}

#[test]
fn two_processes_that_fill_one_cache_at_once_keep_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    // Room for eight of these blocks, and each of the two would fill it alone.
    let caches = [(); 2].map(|()| Cache::open(folder.path(), 1).unwrap());
    let block = vec![1_u8; 120 << 10];
    std::thread::scope(|scope| {
        for (number, cache) in caches.iter().enumerate() {
            let block = &block;
            scope.spawn(move || {
                for entry in 0..8 {
                    cache.store(&key(&format!("{number} {entry}")), block).unwrap();
                }
            });
        }
    });
    let bytes: u64 = files(folder.path()).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    assert!((960 << 10..=1 << 20).contains(&bytes), "{bytes}");
}
