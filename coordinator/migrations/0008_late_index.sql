-- What is part of a round is asked for with each round that is read; a run may have had stragglers in
-- every one of its rounds.
CREATE INDEX straggler_into ON straggler (run, into_number, into_attempt);
