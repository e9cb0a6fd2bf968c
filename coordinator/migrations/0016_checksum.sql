-- What is hashed of a row, so that one which is not any more what was written is found: BLAKE3-256 of the names
-- and values of its columns. NULL in rows of before, which are given theirs when the coordinator starts.

ALTER TABLE site ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE invite ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE certificate ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE operator ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE proposal ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE run ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE round ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE member ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE straggler ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE signer ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE log_head ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE document ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
ALTER TABLE ended_invite ADD COLUMN checksum TEXT CHECK (length(checksum) = 64);
