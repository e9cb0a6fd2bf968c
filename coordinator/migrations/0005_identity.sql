-- Who may become a member, which keys certificates were issued for, and what operators may do.

-- When the site last joined by a token: from then on only its keys in the table `certificate` are taken.
-- NULL where an operator enrolled it by name, which takes any certificate of that name under the root.
ALTER TABLE site ADD COLUMN joined_at BIGINT;
-- The Ed25519 key that it joined with, 32 bytes in hexadecimal digits.
ALTER TABLE site ADD COLUMN signing_key TEXT
    CHECK (length(signing_key) = 64)
    CHECK ((joined_at IS NULL) = (signing_key IS NULL));

-- Open invitations to join. One that is used, burnt or ended is deleted; the audit log tells of it.
CREATE TABLE invite (
    -- Who is invited; one invitation each.
    site           TEXT   NOT NULL PRIMARY KEY,
    -- BLAKE3-256 of the token's secret. The secret itself is nowhere.
    secret_hash    TEXT   NOT NULL CHECK (length(secret_hash) = 64),
    invited_by     TEXT   NOT NULL,
    expires_at     BIGINT NOT NULL,
    -- How often a wrong secret may still be shown.
    tries_left     BIGINT NOT NULL CHECK (tries_left BETWEEN 1 AND 5),
    -- 1 if nobody has to approve.
    auto_approve   BIGINT NOT NULL CHECK (auto_approve IN (0, 1)),
    -- Who showed the secret first: the public key for its certificate, DER in hexadecimal digits.
    public_key     TEXT,
    -- And its Ed25519 key.
    signing_key    TEXT   CHECK (length(signing_key) = 64),
    -- The operators who approved it, as a JSON list.
    approved_by    TEXT,
    -- Until when the certificate holds that it was let in with.
    admitted_until BIGINT,
    CHECK ((public_key IS NULL) = (signing_key IS NULL)),
    CHECK ((public_key IS NULL) = (approved_by IS NULL)),
    CHECK (public_key IS NOT NULL OR admitted_until IS NULL)
);

-- Keys that the coordinator issued certificates for, until a day after the certificate ends.
CREATE TABLE certificate (
    -- BLAKE3-256 of the public key.
    key        TEXT   NOT NULL PRIMARY KEY CHECK (length(key) = 64),
    -- Whose: site/mayo or operator/ada.
    holder     TEXT   NOT NULL,
    issued_at  BIGINT NOT NULL,
    not_after  BIGINT NOT NULL,
    -- When it was shut out.
    revoked_at BIGINT
);

-- What operators may do. While there is no row, every operator's certificate is an admin's.
CREATE TABLE operator (
    -- The name in the certificate.
    name  TEXT   NOT NULL PRIMARY KEY,
    -- Words with blanks between them; none if the operator may do nothing.
    roles TEXT   NOT NULL,
    since BIGINT NOT NULL
);
