//! How long a round bears what may pass by itself: a disk without room, a network that is gone, a
//! trainer that dies or whose device fails.

use std::time::Duration;

use super::Error;
use crate::disk;

/// How often the trainer may die, or have its device fail or its files harmed, in one round before the
/// site withdraws. It goes on from its checkpoint every time, so each of them costs a few steps.
pub(super) const TRAINER_DEATHS_MAX: u32 = 5;

/// How often a transfer or call that did not get on is begun again. Each has had its own retries over a
/// minute and a half, so that half an hour without a network is borne.
const TRANSFERS_MAX: u32 = 20;

/// The wait before a transfer or call that did not get on is begun again.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);

/// What a round has borne so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    disk: u32,
    transfers: u32,
    deaths: u32,
}

impl Patience {
    /// Bears `error`, and says how long to wait before what failed is tried again.
    ///
    /// # Errors
    /// `error`, if it does not pass by itself or was borne often enough.
    pub(super) fn bear(&mut self, error: Error) -> Result<Duration, Error> {
        if error.is_disk() && self.disk < disk::RETRIES_MAX {
            if self.disk == 0 {
                tracing::warn!("{error}; trying again until there is room");
            }
            self.disk += 1;
            return Ok(disk::RETRY_WAIT);
        }
        if error.is_network() && self.transfers < TRANSFERS_MAX {
            self.transfers += 1;
            tracing::warn!("{error}; trying again");
            return Ok(TRANSFER_WAIT);
        }
        if error.is_trainers() && self.deaths < TRAINER_DEATHS_MAX {
            self.deaths += 1;
            let (death, deaths_max) = (self.deaths, TRAINER_DEATHS_MAX);
            // The supervisor pauses before it starts another one.
            tracing::warn!(death, deaths_max, "the round goes on with another trainer: {error}");
            return Ok(Duration::ZERO);
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use fedpaint_proto::names::Digest;
    use fedpaint_proto::reason::Reason;
    use fedpaint_proto::transfer;
    use rustix::io::Errno;
    use tonic::Status;

    use super::super::calls::{CALL_RETRIES_MAX, RETRY_FIRST, RETRY_MAX};
    use super::*;
    use crate::backoff;
    use crate::pipe::Failure;
    use crate::supervisor::{Death, Error as TrainerError};
    use crate::workspace;

    fn io(source: io::Error) -> Error {
        Error::Workspace(workspace::Error::Io { path: "trained.json".into(), source })
    }

    fn died() -> Error {
        Error::Trainer(TrainerError::Died(Death::Other("signal 9".into())))
    }

    #[test]
    fn a_full_disk_is_borne_for_half_an_hour_and_looked_at_every_two_seconds() {
        let mut patience = Patience::default();
        let mut waited = Duration::ZERO;
        while let Ok(wait) = patience.bear(io(Errno::NOSPC.into())) {
            assert_eq!(wait.as_secs(), 2);
            waited += wait;
        }
        assert_eq!(waited.as_secs(), 1800);
        assert!(patience.bear(io(Errno::ACCESS.into())).is_err());
    }

    #[test]
    fn a_transfer_that_does_not_get_on_is_begun_again_and_one_that_is_refused_is_not() {
        let digest = Digest::of(b"update");
        let status = || Status::unavailable("no route");
        let mut patience = Patience::default();
        let broken =
            || Error::Upload(transfer::Error::Broken { digest, retries: 8, status: status() });
        for _ in 0..TRANSFERS_MAX {
            assert_eq!(patience.bear(broken()).unwrap(), TRANSFER_WAIT);
        }
        assert!(patience.bear(broken()).is_err());
        let refused = transfer::Error::Refused { what: "take", digest, status: status() };
        assert!(Patience::default().bear(Error::Upload(refused)).is_err());
    }

    #[test]
    fn a_call_that_does_not_get_on_is_made_again_for_half_an_hour_and_a_refused_one_is_not() {
        let call = |status| Error::Call { what: "the plan", status: Box::new(status) };
        let mut patience = Patience::default();
        for _ in 0..TRANSFERS_MAX {
            assert!(patience.bear(call(Status::unavailable("no route"))).is_ok());
        }
        assert!(patience.bear(call(Status::unavailable("no route"))).is_err());
        let mut waited = Duration::ZERO;
        for attempt in 0..CALL_RETRIES_MAX {
            waited += backoff::delay(attempt, RETRY_FIRST, RETRY_MAX, "mayo");
        }
        let borne = (TRANSFERS_MAX + 1) * waited + TRANSFERS_MAX * TRANSFER_WAIT;
        assert!((1500..2700).contains(&borne.as_secs()), "{borne:?}");
        for (reason, is_borne) in [(Reason::Draining, true), (Reason::RoundOver, false)] {
            assert_eq!(Patience::default().bear(call(reason.status("x"))).is_ok(), is_borne);
        }
    }

    #[test]
    fn a_trainer_may_die_a_few_times_and_what_would_happen_again_is_not_borne() {
        let mut patience = Patience::default();
        for _ in 0..TRAINER_DEATHS_MAX {
            assert_eq!(patience.bear(died()).unwrap(), Duration::ZERO);
        }
        assert!(patience.bear(died()).is_err());
        let failed =
            |failure| Error::Trainer(TrainerError::Failed { failure, detail: String::new() });
        assert!(Patience::default().bear(failed(Failure::NotFinite)).is_err());
        assert!(Patience::default().bear(failed(Failure::Memory)).is_err());
        assert!(Patience::default().bear(failed(Failure::Disk)).is_ok());
        let mut patience = Patience::default();
        for _ in 0..TRAINER_DEATHS_MAX {
            assert!(patience.bear(failed(Failure::Device)).is_ok());
        }
        assert!(patience.bear(failed(Failure::Device)).is_err());
        let hungry = Error::Trainer(TrainerError::Died(Death::OutOfMemory));
        assert!(Patience::default().bear(hungry).is_err());
    }
}
