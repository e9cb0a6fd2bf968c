-- Whether the file of an update was sent for an earlier round is asked for each round that is made.
CREATE INDEX member_update ON member (run, update_digest);
CREATE INDEX straggler_update ON straggler (run, update_digest);
