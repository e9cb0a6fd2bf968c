//! The proxy before an echo: what comes back shows what got through, both ways.

use std::time::Instant;

use super::*;

/// How long bytes are held: many times what they take where nothing befalls them.
const HELD: Duration = Duration::from_millis(200);

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

/// What comes back of `bytes` sent through a connection that `faults` befall.
async fn through(faults: &[Fault], bytes: &[u8]) -> (Vec<u8>, Counted) {
    let faults = faults.to_vec();
    let loses = matches!(faults[..], [Fault::LoseReply { .. }]);
    let proxy = Proxy::start(echo().await, Box::new(move || faults.clone())).unwrap();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut from, mut to) = stream.split();
    let mut back = Vec::new();
    let write = async {
        // A connection that the fault has cut takes no more.
        if to.write_all(bytes).await.is_ok() && !loses {
            let _ = to.shutdown().await;
        }
    };
    let read = async {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            back.extend(&buffer[..n]);
        }
    };
    tokio::join!(write, read);
    (back, proxy.counted())
}

fn bytes() -> Vec<u8> {
    (0..100_000_u32).map(|i| (i % 251) as u8).collect()
}

/// What arrives of bytes that one end sends and the other takes, `way` through a proxy that cuts there.
async fn arrives(way: Way, after: u64) -> (Vec<u8>, Counted) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let proxy = Proxy::start(server, Box::new(move || vec![Fault::Cut { way, after }])).unwrap();
    let near = TcpStream::connect(proxy.address).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let (mut sender, mut taker) = if way == Way::Up { (near, far) } else { (far, near) };
    let mut arrived = Vec::new();
    let send = async {
        // A connection that was cut takes no more.
        let _ = sender.write_all(&bytes()).await;
    };
    let (_, taken) = tokio::join!(send, taker.read_to_end(&mut arrived));
    taken.unwrap();
    (arrived, proxy.counted())
}

#[tokio::test]
async fn a_cut_lets_exactly_so_many_bytes_through() {
    for way in [Way::Up, Way::Down] {
        let (arrived, counted) = arrives(way, 40_001).await;
        assert!(arrived == bytes()[..40_001], "{way:?}: {}", arrived.len());
        assert_eq!((counted.cut, counted.broken()), (1, 1));
        let ways = (counted.broken_up, counted.broken_down);
        assert_eq!(ways, if way == Way::Up { (1, 0) } else { (0, 1) });
    }
}

#[tokio::test]
async fn a_corrupted_byte_is_one_bit_off_and_all_else_arrives() {
    let sent = bytes();
    assert_eq!(through(&[], &sent).await.0, sent);
    let (back, counted) = through(&[Fault::Corrupt { way: Way::Down, at: 70_005 }], &sent).await;
    let differ: Vec<usize> = (0..back.len()).filter(|i| back[*i] != sent[*i]).collect();
    assert_eq!((back.len(), differ), (sent.len(), vec![70_005]));
    assert_eq!((sent[70_005] ^ back[70_005]).count_ones(), 1);
    assert_eq!((counted.corrupted, counted.broken_up, counted.broken_down), (1, 0, 1));
}

#[tokio::test]
async fn a_stall_lasts_its_time_and_then_all_arrives() {
    for way in [Way::Up, Way::Down] {
        let start = Instant::now();
        let stall = Fault::Stall { way, after: 40_001, time: HELD };
        let (back, counted) = through(&[stall], &bytes()).await;
        assert!(start.elapsed() >= HELD, "{way:?}: {:?}", start.elapsed());
        assert!(back == bytes(), "{way:?}: {}", back.len());
        assert_eq!((counted.stalled, counted.broken()), (1, 0));
    }
}

#[tokio::test]
async fn a_slow_line_takes_as_long_as_its_rate_says_and_all_arrives() {
    for way in [Way::Up, Way::Down] {
        let start = Instant::now();
        let slow = Fault::Throttle { way, bytes_per_s: 400_000 };
        let (back, counted) = through(&[slow], &bytes()).await;
        // 100,000 bytes take a quarter of a second.
        assert!(start.elapsed() >= HELD, "{way:?}: {:?}", start.elapsed());
        assert!(back == bytes(), "{way:?}: {}", back.len());
        assert_eq!((counted.throttled, counted.broken()), (1, 0));
    }
}

/// Whether a piece that is the next on its way is passed on at once, with this to befall it.
async fn is_at_once(fault: Fault, way: Way, done: u64) -> bool {
    let counts = Counts::default();
    let pump = Pump { way, faults: &[fault], counts: &counts, done };
    let mut piece = [0; 1_000];
    // The piece is looked at before the time is.
    tokio::time::timeout(Duration::ZERO, pump.befall(&mut piece)).await.is_ok()
}

#[tokio::test]
async fn a_stall_and_a_slow_line_hold_one_way_and_a_stall_one_piece() {
    let stall = Fault::Stall { way: Way::Up, after: 1_500, time: Duration::from_secs(3_600) };
    let slow = Fault::Throttle { way: Way::Up, bytes_per_s: 1 };
    for (done, stalls) in [(0, false), (1_000, true), (2_000, false)] {
        assert_eq!(is_at_once(stall, Way::Up, done).await, !stalls, "{done}");
        assert!(!is_at_once(slow, Way::Up, done).await, "{done}");
        assert!(is_at_once(stall, Way::Down, done).await, "{done}");
        assert!(is_at_once(slow, Way::Down, done).await, "{done}");
    }
}

#[tokio::test]
async fn a_lost_reply_is_cut_after_the_request_has_arrived() {
    let fault = Fault::LoseReply { after: 100_000, replies: 0 };
    let (back, counted) = through(&[fault], &bytes()).await;
    assert!(back.len() < 100_000, "{}", back.len());
    assert_eq!((counted.up, counted.lost_replies), (100_000, 1));
}
