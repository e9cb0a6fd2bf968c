//! How a connection finds out how fast it may send.
//!
//! What Linux begins with, CUBIC, takes every lost packet for a line that is full: where one in a hundred is lost for
//! other reasons, it uses a twenty-fifth of a hospital's line. BBR goes by how much arrives how soon instead (Cardwell
//! et al. 2016, "BBR: Congestion-Based Congestion Control", ACM Queue 14(5)). A system that has it lets every process
//! ask for it, connection by connection (`net.ipv4.tcp_allowed_congestion_control`).

use std::os::fd::AsFd;

/// What is asked for.
pub const WANTED: &str = "bbr";

/// Has a connection send by BBR, or the connections that a listener accepts, unless their route says otherwise. Where
/// the system does not let it they send as the system says: it is a hint, and nothing fails. Returns by what they
/// send, where the system tells that.
#[cfg(target_os = "linux")]
pub fn ask(socket: &impl AsFd) -> Option<String> {
    use rustix::net::sockopt;
    let _ = sockopt::set_tcp_congestion(socket, WANTED);
    sockopt::tcp_congestion(socket).ok()
}

/// Other systems have other ways.
#[cfg(not(target_os = "linux"))]
pub fn ask(_: &impl AsFd) -> Option<String> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_sends_by_what_its_listener_was_let_have() {
        let allowed = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
        let allowed = std::fs::read_to_string(allowed).unwrap();
        let has_it = allowed.split_whitespace().any(|name| name == WANTED);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let told = ask(&listener).unwrap();
        // Root may have more than everybody.
        assert!(told == WANTED || !has_it, "{told}");
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (_near, far) = tokio::join!(connecting, listener.accept());
        let used = rustix::net::sockopt::tcp_congestion(far.unwrap().0).unwrap();
        assert_eq!(used, told);
    }
}
