-- The audit log as evidence: a Merkle tree (RFC 6962) over its entries, and the heads that the coordinator
-- signs over it. Hashes are SHA-256 in 64 lower-case hexadecimal digits. The nodes of entries from before
-- this are made when the coordinator starts.

-- The digest of the document that the entry is about and vouches for.
ALTER TABLE event ADD COLUMN document TEXT CHECK (length(document) = 64);
CREATE INDEX event_document ON event (document);

-- The hash of every full subtree: the 2^level entries from number idx * 2^level + 1 on. It never changes.
CREATE TABLE log_node (
    -- 0 is an entry.
    level BIGINT NOT NULL CHECK (level >= 0 AND level < 64),
    idx   BIGINT NOT NULL CHECK (idx >= 0),
    hash  TEXT   NOT NULL CHECK (length(hash) = 64),
    PRIMARY KEY (level, idx)
);

-- Certificates of the keys that have signed, by their BLAKE3 digest; DER as base64.
CREATE TABLE signer (
    fingerprint TEXT NOT NULL PRIMARY KEY CHECK (length(fingerprint) = 64),
    certificate TEXT NOT NULL
);

-- The head that was signed with each transaction which added entries.
CREATE TABLE log_head (
    -- How many entries there were.
    size      BIGINT NOT NULL PRIMARY KEY CHECK (size >= 1),
    root      TEXT   NOT NULL CHECK (length(root) = 64),
    at        BIGINT NOT NULL,
    -- Ed25519 as base64.
    signature TEXT   NOT NULL,
    signer    TEXT   NOT NULL REFERENCES signer (fingerprint)
);

-- What entries vouch for: signed statements as JSON, by the BLAKE3 digest of the bytes that were signed.
CREATE TABLE document (
    fingerprint TEXT NOT NULL PRIMARY KEY CHECK (length(fingerprint) = 64),
    kind        TEXT NOT NULL CHECK (kind IN ('update', 'manifest')),
    signed      TEXT NOT NULL
);
