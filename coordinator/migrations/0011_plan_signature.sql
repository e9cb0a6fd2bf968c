-- Who stands behind a run's plan: a person's Ed25519 signature over its digest, as JSON; NULL where nobody has
-- signed it.
ALTER TABLE run ADD COLUMN plan_signature TEXT;
