-- What a committed round keeps beside its model, by digest: the moving average of the models, which
-- is published, and the moments of the server's optimiser, which the next aggregation begins from.
-- All are NULL where the plan does not ask for them, and in rounds that were committed before this.

ALTER TABLE round ADD COLUMN ema_digest TEXT
    CHECK (length(ema_digest) = 64)
    CHECK (phase = 'committed' OR ema_digest IS NULL);
ALTER TABLE round ADD COLUMN ema_size BIGINT
    CHECK (ema_size >= 0)
    CHECK ((ema_digest IS NULL) = (ema_size IS NULL));
-- The server optimiser's first moment.
ALTER TABLE round ADD COLUMN momentum_digest TEXT
    CHECK (length(momentum_digest) = 64)
    CHECK (phase = 'committed' OR momentum_digest IS NULL);
ALTER TABLE round ADD COLUMN momentum_size BIGINT
    CHECK (momentum_size >= 0)
    CHECK ((momentum_digest IS NULL) = (momentum_size IS NULL));
-- And its second.
ALTER TABLE round ADD COLUMN second_moment_digest TEXT
    CHECK (length(second_moment_digest) = 64)
    CHECK (phase = 'committed' OR second_moment_digest IS NULL);
ALTER TABLE round ADD COLUMN second_moment_size BIGINT
    CHECK (second_moment_size >= 0)
    CHECK ((second_moment_digest IS NULL) = (second_moment_size IS NULL));
