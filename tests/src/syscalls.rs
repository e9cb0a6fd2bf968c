//! What a program did with the network, as strace has it, line by line. Pure: it reads a text.

use std::collections::BTreeSet;

/// The flags by which strace tells it.
pub const FLAGS: [&str; 2] = ["-e", "trace=network"];

/// The kernel itself, which is asked on a socket which addresses this machine has; no byte leaves by it.
const KERNEL: &str = "AF_NETLINK, nl_pid=0, nl_groups=00000000";

/// The cache of names that glibc asks first, whether or not there is one.
const NAME_CACHE: &str = "AF_UNIX, sun_path=\"/var/run/nscd/socket\"";

/// The port of name servers.
const NAMES_PORT: u16 = 53;

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

/// Reads what `strace -f` has written with [`FLAGS`].
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
            // An address of the kernel's is none at which anybody is reached.
            "bind" if arguments.contains(&format!("{{sa_family={KERNEL}}}")) => {}
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

/// The same of IPv6.
pub fn inet6(address: &str, port: u16) -> String {
    format!(
        "AF_INET6, sin6_port=htons({port}), sin6_flowinfo=htonl(0), \
         inet_pton(AF_INET6, \"{address}\", &sin6_addr), sin6_scope_id=0"
    )
}

/// The name servers of a text such as `/etc/resolv.conf`.
pub fn name_servers(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    named.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

/// Whether an address that a program reached is where a name is looked up: the cache of names, one of these
/// name servers, or the kernel, which says how it would reach what was found. For that a socket that sends
/// nothing is connected to port 0, and let go of again.
pub fn looks_up(address: &str, name_servers: &[String]) -> bool {
    let of = |server: &String| [inet(server, NAMES_PORT), inet6(server, NAMES_PORT)];
    let asks_kernel = address == KERNEL || address.starts_with("AF_UNSPEC, ");
    let sends_nothing = ["sin_port=htons(0), ", "sin6_port=htons(0), "];
    asks_kernel
        || address == NAME_CACHE
        || sends_nothing.iter().any(|port| address.contains(port))
        || name_servers.iter().flat_map(of).any(|server| server == address)
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
            ("73  bind(9, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 0", 1, 0),
            ("73  bind(9, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=0x000001}, 12) = 0", 1, 1),
            ("73  connect(9, {sa_family=AF_UNIX, sun_path=\"/run/nscd\"}, 110) = -1", 2, 0),
            ("73  sendto(9, \"q\", 1, 0, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 1", 2, 0),
        ] {
            let used = read(&format!("{QUIET}{line}\n")).unwrap();
            assert_eq!((used.reached.len(), used.reachable.len()), (reached, reachable), "{line}");
        }
        assert!(read("strace: Process 12 attached").is_err());
        assert!(read("73  io_uring_enter(3, 1) = 1").is_err());
    }

    #[test]
    fn a_name_is_looked_up_at_the_servers_that_are_named_and_nowhere_else() {
        let servers =
            name_servers("# ours\nnameserver 10.0.0.2 # first\nnameserver fd00::2\nsearch x\n");
        assert_eq!(servers, ["10.0.0.2", "fd00::2"]);
        let nscd = "AF_UNIX, sun_path=\"/var/run/nscd/socket\"".to_owned();
        let other = "AF_UNIX, sun_path=\"/run/other\"".to_owned();
        let undone = "AF_UNSPEC, sa_data=\"\\0\\0\\0\"".to_owned();
        for (address, expected) in [
            (nscd, true),
            (other, false),
            (undone, true),
            (KERNEL.to_owned(), true),
            (inet("10.0.0.2", 53), true),
            (inet6("fd00::2", 53), true),
            (inet("10.0.0.2", 443), false),
            (inet("10.0.0.3", 53), false),
            (inet("203.0.113.7", 0), true),
            (inet6("2001:db8::7", 0), true),
            (inet("203.0.113.7", 80), false),
        ] {
            assert_eq!(looks_up(&address, &servers), expected, "{address}");
        }
    }
}
