//! Every bound on what comes from outside that both sides keep to.

use std::time::Duration;

/// The longest piece of a blob in one message.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The most that one record of TLS holds (RFC 8446, 5.1).
pub const TLS_RECORD_BYTES_MAX: usize = 16 << 10;

/// What stands before a piece on its way: the head of an HTTP/2 frame, of a gRPC message, of a protobuf field.
pub const PIECE_HEAD_BYTES: usize = 9 + 5 + 4;

/// How much of a blob is put into one message. A message that is cut is lost whole, so this is what a
/// cut may cost; smaller ones cost more time. With its head it fills records of TLS: a byte more would be a
/// record and a write of its own.
pub const PIECE_BYTES: usize = 4 * TLS_RECORD_BYTES_MAX - PIECE_HEAD_BYTES;

/// The longest message either side decodes; a chunk and its framing, with room for a long plan.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The longest plan, as TOML.
pub const PLAN_BYTES_MAX: usize = 64 << 10;

/// The largest model file anybody accepts.
pub const MODEL_BYTES_MAX: u64 = 8 << 30;

/// The longest header of a model file.
pub const MODEL_HEADER_BYTES_MAX: u64 = 4 << 20;

/// The most tensors in a model file.
pub const TENSORS_MAX: usize = 20_000;

/// The longest name of a tensor.
pub const TENSOR_NAME_BYTES_MAX: usize = 256;

/// The longest text an operator may give as a reason.
pub const REASON_BYTES_MAX: usize = 500;

/// The longest text that says why a call was refused; a plan's shows the line that is wrong.
pub const STATUS_BYTES_MAX: usize = 2_000;

/// The longest text about what is wrong with a file: its parser may quote it, at any length.
pub const FORMAT_BYTES_MAX: usize = 200;

/// The longest text of an entry of the audit log that quotes what came from outside.
pub const DETAIL_BYTES_MAX: usize = 1_000;

/// The most examples one update may claim, so that no site's weight can drown the others' digits.
pub const EXAMPLES_MAX: u64 = 1 << 32;

/// The largest HTTP/2 frame; a chunk fits into one.
pub const HTTP2_FRAME_BYTES_MAX: u32 = CHUNK_BYTES_MAX as u32 + (64 << 10);

/// The most calls one connection may have under way.
pub const HTTP2_STREAMS_MAX: u32 = 16;

/// The most streams that HTTP/2 lets a connection have. A call beyond [`HTTP2_STREAMS_MAX`] is told that limit,
/// which takes a stream; one beyond this is reset, or waits at its sender.
pub const HTTP2_STREAMS_HARD_MAX: u32 = 2 * HTTP2_STREAMS_MAX;

/// The longest list of headers of a call.
pub const HTTP2_HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

/// The longest headers that HTTP/2 reads. A call with more than [`HTTP2_HEADER_LIST_BYTES_MAX`] is told that
/// limit, for which its headers are read; beyond this they are thrown away, and beyond four times this they end
/// the connection.
pub const HTTP2_HEADER_LIST_BYTES_HARD_MAX: u32 = 4 * HTTP2_HEADER_LIST_BYTES_MAX;

/// The most frames in which the headers of a call may come: h2 counts them by itself.
pub const HTTP2_HEADER_FRAMES_MAX: usize = 6;

/// How many streams a client may reset before they were accepted, until its connection is closed
/// (CVE-2023-44487, "rapid reset").
pub const PENDING_RESETS_MAX: usize = 20;

/// How many streams of one connection may be reset for errors before it is closed.
pub const LOCAL_RESETS_MAX: usize = 256;

/// The longest text that says why a connection was closed.
pub const FAREWELL_BYTES_MAX: usize = 500;

/// How often an idle connection is asked whether it is still there.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer may take; with the interval, a dead connection is found within 50 s.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long reaching the coordinator may take, TCP and TLS each.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most rounds that a site may decline at once.
pub const DECLINED_MAX: usize = 64;

/// How long a call that moves no blob may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the answer to a heartbeat may be held back while there is nothing new to tell: well below
/// what its call may take.
pub const HOLD_MAX: Duration = Duration::from_secs(20);

/// By how much the coordinator's clock may differ from a site's in what it signs.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// How soon a caller comes again whom the coordinator could not serve because its disk or database is
/// full or fails: half of the time in which work is to go on once there is room.
pub const STORAGE_RETRY: Duration = Duration::from_secs(5);

/// The shortest and the longest wait that a caller believes who is told when to come again. With what is added
/// so that not all come at once, the longest is shorter than the time for which a round waits for the next byte
/// of an update.
pub const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
/// See [`RETRY_AFTER_MIN`].
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How long a call is put off like that in all, until being told to come again is a failure like others.
pub const PUT_OFF_MAX: Duration = Duration::from_secs(30 * 60);

/// How long a transfer may go without a byte moving before it is broken off and resumed.
pub const TRANSFER_STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a transfer is resumed without having moved a byte before it fails.
pub const TRANSFER_RETRIES_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::v1::{DownloadResponse, UploadRequest, upload_request};

    #[test]
    fn a_piece_and_all_that_stands_before_it_fill_whole_records_of_tls() {
        let data = Bytes::from(vec![7_u8; PIECE_BYTES]);
        let down = DownloadResponse { data: data.clone() };
        let up = UploadRequest { part: Some(upload_request::Part::Data(data)) };
        // The heads of a frame (RFC 9113, 4.1) and of a message of gRPC.
        let heads = 9 + 5;
        for message in [down.encoded_len(), up.encoded_len()] {
            assert!((heads + message).is_multiple_of(TLS_RECORD_BYTES_MAX), "{message}");
        }
    }
}
