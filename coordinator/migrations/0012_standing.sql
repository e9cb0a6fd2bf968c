-- How the updates of a committed round lie to each other, as JSON: the norm of each, its cosine with the others,
-- and whether it is unlike them or was left out; NULL of rounds from before it was told.
ALTER TABLE round ADD COLUMN standings TEXT;

-- The sites of a run whose updates no quarantine leaves out, as JSON: from which round on; NULL where there is none.
ALTER TABLE run ADD COLUMN readmitted TEXT;
