-- What it takes that a call which is repeated or comes late does nothing a second time.

-- When it was acted on, where that is once only; NULL until then. It stays for its day, so that whoever repeats
-- the approval hears the same.
ALTER TABLE proposal ADD COLUMN spent_at BIGINT;

-- The newest round when the run was last resumed, its number and attempt as a JSON list: a call to pause it that
-- saw no later one comes late. NULL of a run that was not, or not since this is kept.
ALTER TABLE run ADD COLUMN resumed_from TEXT;

-- Invitations that were ended or replaced before their time: nobody is invited by their tokens again.
CREATE TABLE ended_invite (
    -- BLAKE3-256 of the token's secret.
    secret_hash TEXT   NOT NULL PRIMARY KEY CHECK (length(secret_hash) = 64),
    -- When the invitation would have ended by itself; then this is forgotten.
    expires_at  BIGINT NOT NULL
);
