//! The way to the coordinator: one channel after the other, as the site's certificate is renewed.
//!
//! A call takes the channel that is newest when it begins, and keeps it to its end; so a renewal cuts
//! nothing that is under way.

use tokio::sync::watch;
use tonic::transport::Channel;

/// The newest channel. Clones follow the same.
#[derive(Clone, Debug)]
pub struct Line(watch::Receiver<Channel>);

impl Line {
    /// A line whose channel is replaced by the sender.
    pub fn new(channel: Channel) -> (watch::Sender<Channel>, Line) {
        let (sender, receiver) = watch::channel(channel);
        (sender, Line(receiver))
    }

    /// The newest channel.
    pub fn now(&self) -> Channel {
        self.0.borrow().clone()
    }
}

impl From<Channel> for Line {
    /// A line of one channel.
    fn from(channel: Channel) -> Line {
        Line::new(channel).1
    }
}
