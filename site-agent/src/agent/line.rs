//! The way to the coordinator: one pair of channels after the other, as the site's certificate is renewed.
//!
//! A call takes the channel that is newest when it begins, and keeps it to its end; so a renewal cuts
//! nothing that is under way. The coordinator ends a connection when its certificate ends: a transfer that
//! lasts longer is cut once, and goes on over the newest channel. Models have a connection of their own: on a
//! thin line what is said in a heartbeat would wait behind whatever of a model the system has taken already.

use std::sync::Arc;

use fedpaint_proto::channel::{self, Route};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::transfer::Way;
use rustls::ClientConfig;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use crate::config::{Config, Site};

/// A connection for what is said and one for models.
#[derive(Clone, Debug)]
pub struct Channels {
    /// For calls that are short.
    pub calls: Channel,
    /// For uploads and downloads.
    pub blobs: Channel,
}

impl Channels {
    /// Connects to the coordinator.
    ///
    /// # Errors
    /// If nobody answers in time, or the answer is not from the federation's coordinator.
    pub async fn open(
        config: &Config,
        route: &Route,
        site: &Site,
        tls: Arc<ClientConfig>,
    ) -> Result<Channels, channel::Error> {
        let open =
            || channel::connect_by(route, &config.coordinator, &site.federation, tls.clone());
        let (calls, blobs) = tokio::try_join!(open(), open())?;
        Ok(Channels { calls, blobs })
    }
}

/// The newest channels. Clones follow the same.
#[derive(Clone, Debug)]
pub struct Line(watch::Receiver<Channels>);

impl Line {
    /// A line whose channels are replaced by the sender.
    pub fn new(channels: Channels) -> (watch::Sender<Channels>, Line) {
        let (sender, receiver) = watch::channel(channels);
        (sender, Line(receiver))
    }

    /// The newest channel for a call.
    pub fn now(&self) -> Channel {
        self.0.borrow().calls.clone()
    }

    /// The newest channel for a model.
    pub fn blobs(&self) -> Channel {
        self.0.borrow().blobs.clone()
    }
}

impl Way for Line {
    fn channel(&self) -> Channel {
        self.blobs()
    }

    fn broke(&self, status: &Status) {
        let reason = Reason::of(status).map(Reason::as_str);
        tracing::info!(code = ?status.code(), reason, "a transfer broke and is resumed");
    }
}

impl From<Channel> for Line {
    /// A line of one channel for everything.
    fn from(channel: Channel) -> Line {
        Line::new(Channels { calls: channel.clone(), blobs: channel }).1
    }
}
