//! Frames in any pieces, and last words that become errors.

use tokio::io::AsyncReadExt;

use super::*;

const HEADERS: u8 = 1;

/// What h2 sends: a GOAWAY with an error and a text.
fn goaway(error: u32, said: &str) -> Vec<u8> {
    frame(GOAWAY, &[&7_u32.to_be_bytes()[..], &error.to_be_bytes(), said.as_bytes()].concat())
}

/// What is heard of bytes that come in pieces of so many, and where in its piece the last word began.
fn heard(bytes: &[u8], piece: usize) -> Option<(usize, Farewell)> {
    let mut frames = Frames::default();
    bytes.chunks(piece).find_map(|piece| frames.pass(piece))
}

#[test]
fn a_last_word_is_heard_in_whatever_pieces_it_comes_and_every_limit_of_h2_is_named() {
    let before = [frame(SETTINGS, &[7; 12]), frame(HEADERS, &[GOAWAY; 300])].concat();
    for (said, named) in [
        ("too_many_resets", "more than 20 streams were reset"),
        ("too_many_resets", "PENDING_RESETS_MAX"),
        ("too_many_internal_resets", "LOCAL_RESETS_MAX"),
        ("header_list_way_too_large", "HTTP2_HEADER_LIST_BYTES_MAX"),
        ("too_many_continuations", "HTTP2_HEADER_FRAMES_MAX"),
        ("too_many_data_frames", "data_frame_budget"),
        ("a limit (OF_OURS)", "a limit (OF_OURS)"),
    ] {
        let bytes = [before.clone(), goaway(ENHANCE_YOUR_CALM, said), vec![0; 5]].concat();
        for piece in [1, 2, 8, 9, 10, 50, 1_000] {
            let (at, farewell) = heard(&bytes, piece).unwrap();
            assert!(farewell.why().contains(named), "{piece}: {farewell}");
            assert!(piece < 1_000 || at == before.len(), "{at}");
        }
    }
}

#[test]
fn an_error_that_h2_has_no_text_for_is_named_where_it_has_one_cause() {
    for (error, named) in [
        (FRAME_SIZE_ERROR, "HTTP2_FRAME_BYTES_MAX"),
        (COMPRESSION_ERROR, "HTTP2_HEADER_LIST_BYTES_HARD_MAX"),
    ] {
        let (_, farewell) = heard(&goaway(error, ""), 4).unwrap();
        assert!(farewell.why().contains(named), "{farewell}");
        let (_, farewell) = heard(&goaway(error, "a limit (OF_OURS)"), 4).unwrap();
        assert_eq!(farewell.why(), "a limit (OF_OURS)");
    }
}

#[test]
fn a_connection_that_ends_without_an_error_or_without_a_word_says_nothing() {
    for bytes in [goaway(0, "bye"), goaway(1, ""), frame(GOAWAY, &[7; 3]), frame(SETTINGS, &[])] {
        assert_eq!(heard(&bytes, 4), None, "{bytes:?}");
    }
}

#[test]
fn a_last_word_is_bounded_and_steers_no_terminal() {
    let (_, farewell) = heard(&goaway(1, &format!("\u{1b}[2J{}", "x".repeat(9_000))), 64).unwrap();
    assert!(farewell.why().len() <= FAREWELL_BYTES_MAX, "{}", farewell.why().len());
    assert!(farewell.why().starts_with("\u{fffd}[2J"), "{farewell}");
}

#[test]
fn our_own_last_word_is_heard_and_is_said_once_and_between_two_frames() {
    let mut frames = Frames::default();
    let first = frames.last_word("a limit (OF_OURS)").unwrap();
    assert_eq!(first[3], SETTINGS, "the first frame is that of the settings");
    let (_, farewell) = Frames::default().pass(&first).unwrap();
    assert_eq!(farewell.to_string(), "the coordinator closed the connection: a limit (OF_OURS)");
    let settings = frame(SETTINGS, &[7; 12]);
    assert_eq!(frames.pass(&settings[..15]), None);
    assert_eq!(frames.last_word("x"), None, "in the middle of a frame");
    assert_eq!(frames.pass(&settings[15..]), None);
    let later = frames.last_word("x").unwrap();
    assert_eq!(later[3], GOAWAY);
    assert!(frames.pass(&later).is_some());
    assert_eq!(frames.last_word("y"), None, "again");
    let mut stopping = Frames::default();
    assert_eq!(stopping.pass(&goaway(0, "")), None);
    assert_eq!(stopping.last_word("x"), None, "a server that stops has said so");
}

#[tokio::test]
async fn what_came_before_the_last_word_is_read_and_then_it_is_the_error() {
    let before = frame(HEADERS, &[1; 100]);
    let bytes = [before.clone(), goaway(ENHANCE_YOUR_CALM, "too_many_resets")].concat();
    let mut connection = Heard::new(&bytes[..]);
    let mut read = [0; 1_000];
    let length = connection.read(&mut read).await.unwrap();
    assert!(read[..length] == before[..], "{length} bytes");
    for _ in 0..2 {
        let error = connection.read(&mut read).await.unwrap_err();
        assert!(error.to_string().contains("PENDING_RESETS_MAX"), "{error}");
    }
    // Where nothing came before it, it is the error at once.
    let error = Heard::new(&bytes[before.len()..]).read(&mut read).await.unwrap_err();
    assert!(error.to_string().contains("PENDING_RESETS_MAX"), "{error}");
}
