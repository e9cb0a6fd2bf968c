//! The names of the limits of which HTTP/2 and gRPC have only numbers: what their libraries say of a call that failed,
//! in our words.

use crate::limits::{
    HTTP2_HEADER_LIST_BYTES_HARD_MAX, HTTP2_HEADER_LIST_BYTES_MAX, HTTP2_STREAMS_HARD_MAX,
    MESSAGE_BYTES_MAX,
};

/// tonic's words for HTTP/2's own answer to headers that it does not read: 431, Request Header Fields Too Large.
const HEADERS_UNREAD: &str = "grpc-status header missing, mapped from HTTP status code 431";

/// How tonic's words begin for a message that it does not read; its length and the limit follow.
const MESSAGE_UNREAD: &str = "Error, decoded message length too large: ";

/// How h2's words end for a stream that the other end resets before it is a call (`REFUSED_STREAM`).
const STREAM_REFUSED: &str = "refused stream before processing any application logic";

/// What `said` means, where it is about a limit that it does not name.
pub(super) fn meaning(said: &str) -> Option<String> {
    if said == HEADERS_UNREAD {
        return Some(format!(
            "the call's headers were not read, for they have {HTTP2_HEADER_LIST_BYTES_HARD_MAX} bytes or more \
             (HTTP2_HEADER_LIST_BYTES_HARD_MAX); a call may have {HTTP2_HEADER_LIST_BYTES_MAX} \
             (HTTP2_HEADER_LIST_BYTES_MAX)"
        ));
    }
    if said.ends_with(STREAM_REFUSED) {
        return Some(format!(
            "the call was not taken: {HTTP2_STREAMS_HARD_MAX} streams are open on this connection, the most that \
             HTTP/2 lets it have (HTTP2_STREAMS_HARD_MAX)"
        ));
    }
    // Calls about certificates have another limit, which their refusal names.
    let lengths = said.strip_prefix(MESSAGE_UNREAD)?;
    let ours = format!("the limit is: {MESSAGE_BYTES_MAX} bytes");
    lengths
        .ends_with(&ours)
        .then(|| format!("the message is too large: {lengths} (MESSAGE_BYTES_MAX)"))
}
