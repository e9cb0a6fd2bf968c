-- Up to which of a run's rounds retention has let the updates go: rows name them still, and nobody has them any more.
-- It is noted before the first of them is deleted, and it stays when more is to be kept later.
CREATE TABLE let_go (
    run      TEXT   NOT NULL PRIMARY KEY REFERENCES run (name),
    -- The newest of these rounds. An update that another row needs stays.
    number   BIGINT NOT NULL CHECK (number >= 1),
    checksum TEXT   CHECK (length(checksum) = 64)
);
