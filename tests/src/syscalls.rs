//! What a program did with the network, as strace has it, line by line. Pure: it reads a text.

use std::collections::BTreeSet;

/// What a program did with the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkUse {
    /// Where it connected to, or sent to, as strace writes an address.
    pub reached: BTreeSet<String>,
    /// Calls that have it be reached: `listen`, `accept` and `bind`, as strace writes them.
    pub reachable: Vec<String>,
    /// Who made any call of the network, by process or thread.
    pub callers: BTreeSet<u32>,
}

/// Reads what `strace -f -e trace=network` has written.
///
/// # Errors
/// A line that it does not understand: what is not understood proves nothing.
pub fn read(text: &str) -> Result<NetworkUse, String> {
    let mut used = NetworkUse::default();
    for line in text.lines() {
        let not_read = || format!("not a line of strace: {line}");
        let (caller, rest) = line.split_once(char::is_whitespace).ok_or_else(not_read)?;
        let caller = caller.parse().map_err(|_| not_read())?;
        let rest = rest.trim_start();
        // The end of a call whose beginning was read, a signal, and the end of a process.
        if ["<... ", "--- ", "+++ "].iter().any(|begin| rest.starts_with(begin)) {
            continue;
        }
        let (name, arguments) = rest.split_once('(').ok_or_else(not_read)?;
        used.callers.insert(caller);
        match name {
            "connect" | "sendto" | "sendmsg" | "sendmmsg" => {
                if let Some((_, address)) = arguments.split_once("{sa_family=") {
                    let address = address.split_once('}').ok_or_else(not_read)?.0;
                    used.reached.insert(address.to_owned());
                } else if name == "connect" {
                    return Err(not_read());
                }
            }
            "bind" | "listen" | "accept" | "accept4" => used.reachable.push(rest.to_owned()),
            "socket" | "socketpair" | "setsockopt" | "getsockopt" | "getsockname"
            | "getpeername" | "recvfrom" | "recvmsg" | "recvmmsg" | "shutdown" => {}
            _ => return Err(not_read()),
        }
    }
    Ok(used)
}

/// How strace writes an address of IPv4.
pub fn inet(address: &str, port: u16) -> String {
    format!("AF_INET, sin_port=htons({port}), sin_addr=inet_addr(\"{address}\")")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: &str = "\
71 socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, [6, 7]) = 0
73  socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = 9
73  connect(9, {sa_family=AF_INET, sin_port=htons(8443), sin_addr=inet_addr(\"127.0.0.1\")}, 16) = -1 EINPROGRESS (Operation now in progress)
73  sendto(9, \"\\26\\3\\1\"..., 1500, MSG_NOSIGNAL, NULL, 0 <unfinished ...>
71  --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
73  <... sendto resumed>)             = 1500
73  +++ exited with 0 +++
";

    #[test]
    fn what_a_program_reaches_and_whether_it_can_be_reached_is_read() {
        let used = read(QUIET).unwrap();
        assert_eq!(used.reached, BTreeSet::from([inet("127.0.0.1", 8443)]));
        assert_eq!((used.reachable.len(), used.callers), (0, BTreeSet::from([71, 73])));
        for (line, reached, reachable) in [
            ("73  listen(9, 128) = 0", 1, 1),
            ("73  bind(9, {sa_family=AF_INET6, sin6_port=htons(0)}, 28 <unfinished ...>", 1, 1),
            ("73  connect(9, {sa_family=AF_UNIX, sun_path=\"/run/nscd\"}, 110) = -1", 2, 0),
            ("73  sendto(9, \"q\", 1, 0, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 1", 2, 0),
        ] {
            let used = read(&format!("{QUIET}{line}\n")).unwrap();
            assert_eq!((used.reached.len(), used.reachable.len()), (reached, reachable), "{line}");
        }
        assert!(read("strace: Process 12 attached").is_err());
        assert!(read("73  io_uring_enter(3, 1) = 1").is_err());
    }
}
