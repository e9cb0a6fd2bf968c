//! What floods a connection ends it, by a limit that the other end is told or that HTTP/2 has an error for,
//! and nobody else notices.

use std::collections::BTreeMap;
use std::time::Duration;

use fedpaint_coordinator::limits::{
    CALLS_PER_CONNECTION_MAX, HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_STREAM_WINDOW_BYTES,
    WAITING_BYTES_MAX,
};
use fedpaint_proto::limits::{self, HTTP2_HEADER_LIST_BYTES_HARD_MAX, HTTP2_STREAMS_HARD_MAX};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1::CreateRunRequest;
use tonic::{Code, Request};

use crate::federation::{Client, Federation};
use crate::pki::Leaf;
use crate::raw::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS,
    INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE,
    REFUSED_STREAM, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, call, frame, header, next, reset,
};

const HEARTBEAT: &str = "/fedpaint.v1.FederationService/Heartbeat";
const UPLOAD: &str = "/fedpaint.v1.BlobService/Upload";

/// How much a coordinator's memory may grow under a flood: buffers of a few connections.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

/// Resets that are sent in all.
const RESETS: u32 = 100_000;

/// How long nothing is answered of which nothing is read.
const SILENCE: Duration = Duration::from_millis(500);

/// How much of a connection may be under way before anybody says how much (RFC 9113, 6.9.2).
const HTTP2_WINDOW_BYTES_FIRST: u32 = 65_535;

/// Streams of one blow: of as many as a connection may have open at once, none is refused for that.
const BLOW: u32 = 1_000;

/// A flooder's certificate, of an enrolled site, and an honest site.
async fn sites(federation: &Federation) -> (TlsFiles, Client) {
    federation.site("mallory").await;
    let leaf = Leaf::client("spiffe://brain/site/mallory");
    let files = federation.certificate(&federation.authority, &leaf);
    (files, federation.site("mayo").await)
}

/// Sends blow after blow until the connection ends; how many streams were begun, and how it ended.
async fn flood(raw: Raw, blow: impl Fn(u32) -> Vec<u8>) -> (u32, Option<Frame>) {
    let Raw { mut reader, mut writer } = raw;
    let sending = async {
        let mut sent = 0;
        while sent < RESETS {
            let bytes: Vec<u8> = (sent..sent + BLOW).flat_map(|n| blow(2 * n + 1)).collect();
            sent += BLOW;
            // A connection that has ended takes no more.
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.is_err() {
                break;
            }
        }
        sent
    };
    let hearing = async {
        loop {
            match next(&mut reader).await {
                Ok(end @ Frame { kind: GOAWAY, .. }) => return Some(end),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::join!(sending, hearing)
}

/// Floods with connection after connection until so many streams were begun. Each must be ended for it, an
/// honest site answered between any two, and the memory stay.
async fn floods(federation: &Federation, blow: impl Fn(u32) -> Vec<u8>, why: &[u8]) {
    let (files, mut honest) = sites(federation).await;
    honest.beat().await.unwrap();
    let before = federation.rss_bytes();
    let mut begun = 0;
    while begun < RESETS {
        let raw = Raw::connect(federation.address, &files, &[]).await;
        let (sent, end) = flood(raw, &blow).await;
        begun += sent;
        assert!(sent < RESETS, "the connection was not ended");
        let end = end.expect("the connection says why it ends");
        assert_eq!(end.number(4), ENHANCE_YOUR_CALM);
        assert_eq!(&end.payload[8..], why, "{}", String::from_utf8_lossy(&end.payload[8..]));
        honest.beat().await.unwrap();
    }
    let grown = federation.rss_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_resets_end_their_connections_and_cost_no_memory_and_no_answer() {
    let federation = Federation::program();
    let headers = call(HEARTBEAT, &[]);
    let blow = |stream| [frame(HEADERS, END_HEADERS, stream, &headers), reset(stream)].concat();
    floods(&federation, blow, b"too_many_resets").await;
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_resets_that_the_coordinator_is_made_to_send_end_their_connections() {
    let federation = Federation::program();
    let headers = call(HEARTBEAT, &[]);
    // A window that overflows has the stream be reset by the other end.
    let blow = |stream| {
        let window = 0x7fff_ffff_u32.to_be_bytes();
        [frame(HEADERS, END_HEADERS, stream, &headers), frame(8, 0, stream, &window)].concat()
    };
    floods(&federation, blow, b"too_many_internal_resets").await;
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_one_by_one_cost_no_memory_no_answer_and_no_place() {
    /// Each a call that is worked on before it is reset, so that it counts nowhere as a flood.
    const CALLS: u32 = 10_000;
    let federation = Federation::program();
    let (files, mut honest) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    let headers = call(UPLOAD, &[]);
    honest.beat().await.unwrap();
    let before = federation.rss_bytes();
    for n in 0..CALLS {
        let stream = 2 * n + 1;
        raw.send(&frame(HEADERS, END_HEADERS, stream, &headers)).await.unwrap();
        raw.ping().await.unwrap();
        raw.send(&reset(stream)).await.unwrap();
        if n % 100 == 0 {
            honest.beat().await.unwrap();
        }
    }
    // Of the places of the calls that are worked on at once none is taken: another call is answered.
    let last = 2 * CALLS + 1;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, last, &headers)).await.unwrap();
    raw.wait(HEADERS, last).await.unwrap();
    let grown = federation.rss_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    drop(raw);
    federation.stop().await;
}

#[tokio::test]
async fn every_limit_of_a_connection_is_told_in_its_settings() {
    let federation = Federation::start().await;
    let (files, _) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    let said = raw.wait(SETTINGS, 0).await.unwrap();
    let settings: BTreeMap<u16, u32> = said
        .payload
        .chunks_exact(6)
        .map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), pair))
        .map(|(name, pair)| (name, u32::from_be_bytes(pair[2..].try_into().unwrap())))
        .collect();
    for (name, limit) in [
        (MAX_CONCURRENT_STREAMS, HTTP2_STREAMS_HARD_MAX),
        (INITIAL_WINDOW_SIZE, HTTP2_STREAM_WINDOW_BYTES),
        (MAX_FRAME_SIZE, limits::HTTP2_FRAME_BYTES_MAX),
        (MAX_HEADER_LIST_SIZE, HTTP2_HEADER_LIST_BYTES_HARD_MAX),
    ] {
        assert_eq!(settings.get(&name), Some(&limit), "{name}");
    }
    let said = raw.wait(WINDOW_UPDATE, 0).await.unwrap();
    assert_eq!(said.number(0) + HTTP2_WINDOW_BYTES_FIRST, HTTP2_CONNECTION_WINDOW_BYTES);
    // What is under way by 1 Gbit/s in 100 ms.
    const { assert!(HTTP2_STREAM_WINDOW_BYTES > 12_500_000) }
    drop(raw);
    federation.stop().await;
}

#[tokio::test]
async fn of_what_no_call_takes_so_much_waits_and_no_more_is_read() {
    let federation = Federation::start().await;
    let (files, mut honest) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    // Its windows hold from then on.
    raw.wait(SETTINGS, 0).await.unwrap();
    raw.send(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    let headers = call(UPLOAD, &[]);
    // One more than are worked on at once: nothing of the last is taken.
    let last = 2 * CALLS_PER_CONNECTION_MAX as u32 + 1;
    for stream in (1..last).step_by(2) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &headers)).await.unwrap();
    }
    // They have begun to wait for their requests by then.
    raw.ping().await.unwrap();
    raw.send(&frame(HEADERS, END_HEADERS, last, &headers)).await.unwrap();
    raw.ping().await.unwrap();
    let data = frame(DATA, 0, last, &[0; 32 << 10]);
    for _ in 0..WAITING_BYTES_MAX as usize / data.len() {
        raw.send(&data).await.unwrap();
    }
    let came = raw.ping().await.unwrap();
    assert!(
        came.iter().all(|frame| frame.stream == 0),
        "it is neither answered nor reset: {came:?}"
    );
    for _ in 0..10 {
        raw.send(&data).await.unwrap();
    }
    let answered = tokio::time::timeout(SILENCE, raw.ping()).await;
    assert!(answered.is_err(), "{answered:?}");
    honest.beat().await.unwrap();
    drop(raw);
    federation.stop().await;
}

#[tokio::test]
async fn a_call_more_than_a_connection_may_have_is_refused_and_the_others_go_on() {
    let federation = Federation::start().await;
    let (files, _) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    let headers = call(UPLOAD, &[]);
    let stream = |n: u32| 2 * n + 1;
    for n in 0..=limits::HTTP2_STREAMS_MAX {
        raw.send(&frame(HEADERS, END_HEADERS, stream(n), &headers)).await.unwrap();
    }
    let refused = stream(limits::HTTP2_STREAMS_MAX);
    raw.wait(HEADERS, refused).await.unwrap();
    // Of the others none was answered or reset, and one that ends makes room for the next.
    let came = raw.ping().await.unwrap();
    assert!(came.iter().all(|frame| [0, refused].contains(&frame.stream)), "{came:?}");
    raw.send(&frame(DATA, END_STREAM, stream(0), &[])).await.unwrap();
    raw.wait(HEADERS, stream(0)).await.unwrap();
    let after = stream(limits::HTTP2_STREAMS_MAX + 1);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, after, &headers)).await.unwrap();
    // It is worked on when its turn comes.
    for n in 1..limits::HTTP2_STREAMS_MAX {
        raw.send(&frame(DATA, END_STREAM, stream(n), &[])).await.unwrap();
    }
    raw.wait(HEADERS, after).await.unwrap();
    drop(raw);
    federation.stop().await;
}

#[tokio::test]
async fn streams_beyond_those_that_http2_lets_a_connection_have_are_reset_by_it() {
    let federation = Federation::start().await;
    let (files, mut honest) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    let headers = call(UPLOAD, &[]);
    let stream = |n: u32| 2 * n + 1;
    // All at once, so that none is answered before.
    let all = (0..=HTTP2_STREAMS_HARD_MAX)
        .flat_map(|n| frame(HEADERS, END_HEADERS, stream(n), &headers))
        .collect::<Vec<u8>>();
    raw.send(&all).await.unwrap();
    let refused = raw.wait(RST_STREAM, stream(HTTP2_STREAMS_HARD_MAX)).await.unwrap();
    assert_eq!(refused.number(0), REFUSED_STREAM);
    honest.beat().await.unwrap();
    drop(raw);
    federation.stop().await;
}

#[tokio::test]
async fn calls_beyond_those_that_a_connection_may_have_worked_on_wait_for_one_to_end() {
    const WORKED_ON: u32 = CALLS_PER_CONNECTION_MAX as u32;
    let federation = Federation::start().await;
    let (files, mut honest) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    let headers = call(UPLOAD, &[]);
    let last = 2 * WORKED_ON + 1;
    for n in 0..WORKED_ON {
        raw.send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &headers)).await.unwrap();
    }
    // This one would be refused at once.
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, last, &headers)).await.unwrap();
    for _ in 0..20 {
        honest.beat().await.unwrap();
        let came = raw.ping().await.unwrap();
        assert!(!came.iter().any(|frame| frame.stream == last), "{came:?}");
    }
    raw.send(&reset(1)).await.unwrap();
    raw.wait(HEADERS, last).await.unwrap();
    drop(raw);
    federation.stop().await;
}

#[tokio::test]
async fn headers_beyond_their_limit_are_refused_and_the_connection_goes_on() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut list = async |bytes: usize| {
        let mut request = Request::new(fedpaint_proto::v1::ListRunsRequest {});
        request.metadata_mut().insert("x-long", "a".repeat(bytes).parse().unwrap());
        operator.admin.list_runs(request).await.map(drop)
    };
    let limit = limits::HTTP2_HEADER_LIST_BYTES_MAX as usize;
    list(limit / 2).await.unwrap();
    let refused = list(limit).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::TooLong), "{refused}");
    list(limit / 2).await.unwrap();
    // 431: Request Header Fields Too Large, which HTTP/2 says of what it does not read.
    let refused = list(HTTP2_HEADER_LIST_BYTES_HARD_MAX as usize).await.unwrap_err();
    assert!(refused.message().contains("431"), "{refused:?}");
    list(limit / 2).await.unwrap();
    federation.stop().await;
}

/// As what a connection is ended whose headers go on in so many pieces of so many bytes, and do not end.
async fn headers_without_an_end(pieces: usize, bytes: usize) -> String {
    let federation = Federation::start().await;
    let (files, mut honest) = sites(&federation).await;
    let mut raw = Raw::connect(federation.address, &files, &[]).await;
    let piece = frame(CONTINUATION, 0, 1, &header("x-more", &"a".repeat(bytes)));
    let begin = frame(HEADERS, 0, 1, &call(HEARTBEAT, &[]));
    raw.send(&[begin, piece.repeat(pieces)].concat()).await.unwrap();
    let end = raw.wait(GOAWAY, 0).await.unwrap();
    assert_eq!(end.number(4), ENHANCE_YOUR_CALM);
    raw.end().await;
    honest.beat().await.unwrap();
    federation.stop().await;
    String::from_utf8(end.payload[8..].to_vec()).unwrap()
}

#[tokio::test]
async fn headers_that_never_end_end_their_connection_by_a_piece_of_four_times_what_is_read() {
    let limit = HTTP2_HEADER_LIST_BYTES_HARD_MAX as usize;
    assert_eq!(headers_without_an_end(1, 4 * limit).await, "header_list_way_too_large");
}

#[tokio::test]
async fn headers_that_never_end_end_their_connection_at_the_sixth_piece_however_small() {
    // h2 counts them by itself, and has no name for how many there may be.
    assert_eq!(headers_without_an_end(6, 10).await, "too_many_continuations");
}

#[tokio::test]
async fn a_message_beyond_its_limit_is_refused_by_the_limit() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let plan_toml = "#".repeat(limits::MESSAGE_BYTES_MAX + 1);
    let name = "t1".to_owned();
    let (initial_model, plan_signature) = (None, None);
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature };
    let refused = operator.admin.create_run(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let limit = format!("limit is: {} bytes (MESSAGE_BYTES_MAX)", limits::MESSAGE_BYTES_MAX);
    assert!(refused.message().contains(&limit), "{refused}");
    // One that fits is looked into.
    let plan_toml = "#".repeat(limits::PLAN_BYTES_MAX + 1);
    let initial_model = Some(crate::rounds::blob(b"model"));
    let name = "t1".to_owned();
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    let refused = operator.admin.create_run(request).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::InvalidPlan), "{refused}");
    let limit = format!("the {} a plan may have (PLAN_BYTES_MAX)", limits::PLAN_BYTES_MAX);
    assert!(refused.message().contains(&limit), "{refused}");
    federation.stop().await;
}
