//! What a program brought to the disk and in which order, as strace has it, line by line. Pure: it reads a text.

use std::collections::HashMap;

/// The flags by which strace tells it, with the paths of descriptors. Not every processor has each call.
pub const FLAGS: [&str; 3] = ["-y", "-e", "trace=fsync,fdatasync,?rename,?renameat,?renameat2"];

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It brings a file or a folder to the disk.
    Sync(String),
    /// It gives a file another name.
    Rename {
        /// The name it had.
        from: String,
        /// The name it has.
        to: String,
    },
}

/// A call that has succeeded. One that returned before another was made has its `end` before that one's `begin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCall {
    /// What it does.
    pub what: What,
    /// The line at which it was made, from 0 on.
    pub begin: usize,
    /// The line at which it returned; the same where no other call came in between.
    pub end: usize,
}

/// Reads what `strace -f` has written with [`FLAGS`]: the calls that have returned, in the order of their ends.
///
/// # Errors
/// A line that it does not understand: what is not understood proves nothing.
pub fn read(text: &str) -> Result<Vec<DiskCall>, String> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, (What, usize)> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let not_read = || format!("not a line of strace: {line}");
        let (caller, rest) = line.split_once(char::is_whitespace).ok_or_else(not_read)?;
        let rest = rest.trim();
        // A signal, and the end of a process.
        if ["--- ", "+++ "].iter().any(|begin| rest.starts_with(begin)) {
            continue;
        }
        let (what, begin) = match rest.starts_with("<... ") {
            true => unfinished.remove(caller).ok_or_else(not_read)?,
            false => (call(rest).ok_or_else(not_read)?, number),
        };
        if rest.ends_with("<unfinished ...>") {
            unfinished.insert(caller, (what, begin));
        } else if rest.ends_with("= 0") {
            calls.push(DiskCall { what, begin, end: number });
        }
    }
    Ok(calls)
}

fn call(text: &str) -> Option<What> {
    let (name, arguments) = text.split_once('(')?;
    match name {
        "fsync" | "fdatasync" => {
            let path = arguments.split_once('<')?.1.split_once('>')?.0;
            Some(What::Sync(path.to_owned()))
        }
        "rename" | "renameat" | "renameat2" => {
            let mut paths = arguments.split('"').skip(1).step_by(2).map(str::to_owned);
            Some(What::Rename { from: paths.next()?, to: paths.next()? })
        }
        _ => None,
    }
}

/// The first sync of a path that `is_it` among the calls made from line `from` on.
pub fn sync_from(
    calls: &[DiskCall],
    from: usize,
    is_it: impl Fn(&str) -> bool,
) -> Option<&DiskCall> {
    let mut later = calls.iter().filter(|call| call.begin >= from);
    later.find(|call| matches!(&call.what, What::Sync(path) if is_it(path)))
}

/// The line at which the file `path` was whole on the disk under its name: it was synced under a name that it
/// had before, then got this one, and then the folder was synced.
///
/// # Errors
/// What of it was not done, or not in this order.
pub fn named(calls: &[DiskCall], path: &str) -> Result<usize, String> {
    let renamed = |name: &str, before: usize| {
        calls.iter().find_map(|call| match &call.what {
            What::Rename { from, to } if to == name && call.end < before => Some((call, from)),
            _ => None,
        })
    };
    let (last, from) = renamed(path, usize::MAX).ok_or(format!("nothing became {path}"))?;
    let (mut names, mut first) = (vec![from.as_str()], last);
    while let Some((call, from)) = renamed(names[names.len() - 1], first.begin) {
        names.push(from);
        first = call;
    }
    let file = sync_from(calls, 0, |synced| names.contains(&synced));
    file.filter(|sync| sync.end < last.begin)
        .ok_or(format!("{path} was not synced before it got its name"))?;
    let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let folder = sync_from(calls, last.end + 1, |synced| synced == folder);
    folder.map(|sync| sync.end).ok_or(format!("the folder of {path} was not synced after"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: [&str; 8] = [
        "71  fsync(9</d/staging/x.part>) = 0",
        "72  fdatasync(7</d/db-wal> <unfinished ...>",
        "71  rename(\"/d/staging/x.part\", \"/d/blobs/x\" <unfinished ...>",
        "72  <... fdatasync resumed>)              = 0",
        "71  <... rename resumed>)                 = 0",
        "72  --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---",
        "71  fsync(9</d/blobs>) = 0",
        "72  fsync(7</d/db-wal> <unfinished ...>",
    ];

    fn named_in(lines: &[&str]) -> Result<usize, String> {
        named(&read(&lines.join("\n")).unwrap(), "/d/blobs/x")
    }

    #[test]
    fn a_file_is_named_by_a_sync_a_rename_and_a_sync_of_its_folder_in_this_order_alone() {
        assert_eq!(named_in(&WHOLE), Ok(6));
        let without = |at: &[usize]| -> Vec<&str> {
            let kept = WHOLE.iter().enumerate().filter(|(i, _)| !at.contains(i));
            kept.map(|(_, line)| *line).collect()
        };
        let lacking = |at: &[usize]| named_in(&without(at)).unwrap_err();
        assert!(lacking(&[0]).contains("was not synced before"));
        assert!(lacking(&[2, 4]).contains("nothing became"));
        assert!(lacking(&[6]).contains("the folder"));
        let mut late = WHOLE;
        late.rotate_left(1);
        assert!(named_in(&late).unwrap_err().contains("was not synced before"));
        let mut failed = WHOLE;
        failed[0] = "71  fsync(9</d/staging/x.part>) = -1 EIO (Input/output error)";
        assert!(named_in(&failed).unwrap_err().contains("was not synced before"));
        // It had another name when it was synced.
        let mut twice =
            vec!["71  fsync(9</d/a>) = 0", "71  rename(\"/d/a\", \"/d/staging/x.part\") = 0"];
        twice.extend(&WHOLE[1..]);
        assert_eq!(named_in(&twice), Ok(7));
    }

    #[test]
    fn a_sync_counts_when_it_has_returned_and_only_if_it_was_made_after() {
        let calls = read(&WHOLE.join("\n")).unwrap();
        let sync = sync_from(&calls, 1, |path| path == "/d/db-wal").unwrap();
        assert_eq!((sync.begin, sync.end), (1, 3));
        assert_eq!(sync_from(&calls, 2, |path| path == "/d/db-wal"), None);
        let at = "5 renameat(AT_FDCWD</d>, \"/a\", AT_FDCWD</d>, \"/b\") = 0";
        let what = What::Rename { from: "/a".into(), to: "/b".into() };
        assert_eq!(read(at).unwrap(), [DiskCall { what, begin: 0, end: 0 }]);
        assert!(read("strace: Process 12 attached").is_err());
        assert!(read("73  <... fsync resumed>) = 0").is_err());
    }
}
