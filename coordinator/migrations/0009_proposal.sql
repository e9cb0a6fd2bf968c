-- What takes two persons and one of them has asked for. It is forgotten after a day; the audit log tells.

CREATE TABLE proposal (
    -- BLAKE3-256 of what is asked for, in words.
    id          TEXT   NOT NULL PRIMARY KEY CHECK (length(id) = 64),
    -- The same in words.
    what        TEXT   NOT NULL,
    asked_by    TEXT   NOT NULL,
    asked_at    BIGINT NOT NULL,
    -- The second person; NULL until there is one.
    approved_by TEXT,
    CHECK (approved_by IS NULL OR approved_by <> asked_by)
);
