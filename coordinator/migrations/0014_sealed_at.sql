-- When the round was sealed: from then on it takes no update, and its average is owed. NULL before that, and of
-- rounds that were sealed before this was kept.
ALTER TABLE round ADD COLUMN sealed_at BIGINT;
