-- Which coordinator may write: one row, taken at its start, renewed while it lives, and looked at in
-- every transaction, so that a coordinator which was taken for dead and is not cannot write any more.

CREATE TABLE lease (
    -- There is one.
    id       BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Counts the holders; a transaction that names another epoch writes nothing.
    epoch    BIGINT NOT NULL CHECK (epoch >= 1),
    -- The holder, for people and for a coordinator that starts anew over the same data folder.
    host     TEXT   NOT NULL,
    pid      BIGINT NOT NULL CHECK (pid >= 0),
    folder   TEXT   NOT NULL,
    since    BIGINT NOT NULL,
    -- When it ends unless it is renewed.
    until_at BIGINT NOT NULL
);
