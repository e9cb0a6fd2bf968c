-- What a round keeps of its members' time, and updates that come when their round is sealed. Old rows
-- have NULL in the new columns.

-- When the member came into its state.
ALTER TABLE member ADD COLUMN since BIGINT;

-- When reporting was to end, where it goes on longer because updates still arrive; until_at moves.
ALTER TABLE round ADD COLUMN due_at BIGINT;
-- When their newest bytes came, as a JSON object of times by the sites' names.
ALTER TABLE round ADD COLUMN arriving TEXT
    CHECK ((due_at IS NULL) = (arriving IS NULL));

-- Members that had not reported when their round was sealed, in runs that fold late updates in.
CREATE TABLE straggler (
    run           TEXT   NOT NULL,
    -- The round that it trains for; what it trains from is the round's base model.
    number        BIGINT NOT NULL,
    attempt       BIGINT NOT NULL,
    site          TEXT   NOT NULL,
    base_digest   TEXT   NOT NULL CHECK (length(base_digest) = 64),
    base_size     BIGINT NOT NULL CHECK (base_size >= 0),
    -- When its round was sealed.
    since         BIGINT NOT NULL,
    -- Sealed: part of a round that aggregates. Folded: part of one that is committed.
    state         TEXT   NOT NULL CHECK
        (state IN ('training', 'reported', 'sealed', 'folded', 'dropped')),
    -- The round that it is part of, or in which it was dropped.
    into_number   BIGINT,
    into_attempt  BIGINT,
    -- The update.
    update_digest TEXT   CHECK (length(update_digest) = 64),
    update_size   BIGINT CHECK (update_size >= 0),
    -- Training examples behind the update.
    examples      BIGINT CHECK (examples >= 1),
    -- What the site told of its training, as JSON.
    report        TEXT,
    -- Why the update does not count, as JSON.
    reason        TEXT,
    PRIMARY KEY (run, number, attempt, site),
    FOREIGN KEY (run, number, attempt, site) REFERENCES member (run, number, attempt, site),
    FOREIGN KEY (run, into_number, into_attempt) REFERENCES round (run, number, attempt),
    CHECK ((state IN ('training', 'reported')) = (into_number IS NULL)),
    CHECK ((into_number IS NULL) = (into_attempt IS NULL)),
    CHECK (state <> 'training' OR update_digest IS NULL),
    CHECK (state IN ('training', 'dropped') OR update_digest IS NOT NULL),
    CHECK ((update_digest IS NULL) = (update_size IS NULL)),
    CHECK ((update_digest IS NULL) = (examples IS NULL)),
    CHECK ((update_digest IS NULL) = (report IS NULL)),
    CHECK ((state = 'dropped') = (reason IS NOT NULL))
);
