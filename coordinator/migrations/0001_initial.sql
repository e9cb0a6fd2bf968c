-- What the coordinator knows, as facts. The same statements run on SQLite and on PostgreSQL: every
-- column is TEXT or BIGINT. Times are microseconds since 1970 in UTC, digests are BLAKE3-256 in 64
-- lower-case hexadecimal digits, sizes are bytes. No row holds a weight; names are the keys.

CREATE TABLE site (
    -- The name in the site's certificate.
    name        TEXT   NOT NULL PRIMARY KEY,
    -- When an operator last let the site in.
    enrolled_at BIGINT NOT NULL,
    -- When an operator shut it out; NULL while it may take part.
    revoked_at  BIGINT
);

CREATE TABLE run (
    -- Chosen by the operator.
    name           TEXT   NOT NULL PRIMARY KEY,
    -- The plan in canonical TOML; it never changes.
    plan           TEXT   NOT NULL,
    -- The model the run started from.
    initial_digest TEXT   NOT NULL CHECK (length(initial_digest) = 64),
    initial_size   BIGINT NOT NULL CHECK (initial_size >= 0),
    -- The newest global model.
    model_digest   TEXT   NOT NULL CHECK (length(model_digest) = 64),
    model_size     BIGINT NOT NULL CHECK (model_size >= 0),
    state          TEXT   NOT NULL CHECK (state IN ('active', 'paused', 'finished', 'stopped')),
    -- Why the run is paused, as JSON.
    reason         TEXT,
    -- Rounds committed.
    committed      BIGINT NOT NULL CHECK (committed >= 0),
    -- Attempts abandoned in a row.
    failures       BIGINT NOT NULL CHECK (failures >= 0),
    created_at     BIGINT NOT NULL,
    CHECK ((state = 'paused') = (reason IS NOT NULL))
);

CREATE TABLE round (
    run          TEXT   NOT NULL REFERENCES run (name),
    -- From 1 on; also the version of the model the round makes.
    number       BIGINT NOT NULL CHECK (number >= 1),
    -- From 1 on; an abandoned round is tried again under the same number.
    attempt      BIGINT NOT NULL CHECK (attempt >= 1),
    phase        TEXT   NOT NULL CHECK
        (phase IN ('selecting', 'reporting', 'aggregating', 'committed', 'abandoned')),
    -- When selecting or reporting ends by itself.
    until_at     BIGINT,
    -- The model the sites train from.
    base_digest  TEXT   NOT NULL CHECK (length(base_digest) = 64),
    base_size    BIGINT NOT NULL CHECK (base_size >= 0),
    -- The model the round made.
    model_digest TEXT   CHECK (length(model_digest) = 64),
    model_size   BIGINT CHECK (model_size >= 0),
    -- Why the round was abandoned, as JSON.
    reason       TEXT,
    opened_at    BIGINT NOT NULL,
    -- When the round was committed or abandoned.
    closed_at    BIGINT,
    PRIMARY KEY (run, number, attempt),
    CHECK ((phase IN ('selecting', 'reporting')) = (until_at IS NOT NULL)),
    CHECK ((phase = 'committed') = (model_digest IS NOT NULL)),
    CHECK ((model_digest IS NULL) = (model_size IS NULL)),
    CHECK ((phase = 'abandoned') = (reason IS NOT NULL)),
    CHECK ((phase IN ('committed', 'abandoned')) = (closed_at IS NOT NULL))
);

CREATE TABLE member (
    run           TEXT   NOT NULL,
    number        BIGINT NOT NULL,
    attempt       BIGINT NOT NULL,
    site          TEXT   NOT NULL REFERENCES site (name),
    state         TEXT   NOT NULL CHECK (state IN ('joined', 'reported', 'withdrawn')),
    -- The update.
    update_digest TEXT   CHECK (length(update_digest) = 64),
    update_size   BIGINT CHECK (update_size >= 0),
    -- Training examples behind the update: its weight in the average.
    examples      BIGINT CHECK (examples >= 1),
    -- What the site told of its training, as JSON.
    report        TEXT,
    -- Why the site withdrew, as JSON.
    reason        TEXT,
    PRIMARY KEY (run, number, attempt, site),
    FOREIGN KEY (run, number, attempt) REFERENCES round (run, number, attempt),
    CHECK ((state = 'reported') = (update_digest IS NOT NULL)),
    CHECK ((update_digest IS NULL) = (update_size IS NULL)),
    CHECK ((update_digest IS NULL) = (examples IS NULL)),
    CHECK ((update_digest IS NULL) = (report IS NULL)),
    CHECK ((state = 'withdrawn') = (reason IS NOT NULL))
);

-- The audit log. The one coordinator counts seq, so a second one's first entry collides.
CREATE TABLE event (
    seq    BIGINT NOT NULL PRIMARY KEY CHECK (seq >= 1),
    at     BIGINT NOT NULL,
    -- Who caused it: site/mayo, operator/ada, or coordinator.
    actor  TEXT   NOT NULL,
    -- What happened, one word.
    kind   TEXT   NOT NULL,
    -- The same for people.
    detail TEXT   NOT NULL
);
