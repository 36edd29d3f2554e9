-- What the loops did, what of certificates and agents was told, which keys the coordinators know.

-- One row for each loop that has run. A run that somebody asks for is counted in `asked`, and is over when `answered`
-- has come as far.
CREATE TABLE loop_runs (
  name text PRIMARY KEY,
  runner text NOT NULL DEFAULT '',
  started_at timestamptz,
  ms double precision NOT NULL DEFAULT 0,
  failed_at timestamptz,               -- the last failure, also when it went well since
  error text NOT NULL DEFAULT '',      -- why the last run failed; empty when it did not
  asked bigint NOT NULL DEFAULT 0,
  answered bigint NOT NULL DEFAULT 0
);

-- The life that was told last: a certificate that falls due or expires, or is valid again, is told once.
ALTER TABLE certificates ADD COLUMN told_life text NOT NULL DEFAULT 'valid'
  CHECK (told_life IN ('valid', 'due', 'expired'));
UPDATE certificates SET told_life = CASE WHEN expires_at <= now() THEN 'expired' ELSE 'due' END
WHERE standing = 'issued' AND least(expires_at, renew_at) <= now();
CREATE INDEX certificates_to_expire ON certificates (expires_at, id)
  WHERE told_life <> 'expired' AND standing = 'issued' AND NOT archived;
CREATE INDEX certificates_to_fall_due ON certificates (renew_at, id)
  WHERE told_life = 'valid' AND standing = 'issued' AND NOT archived;
CREATE INDEX certificates_told_due ON certificates (renew_at, id) WHERE told_life = 'due';
CREATE INDEX certificates_told_expired ON certificates (expires_at, id) WHERE told_life = 'expired';

-- Since when an agent was silent when that was told; null while it is heard of.
ALTER TABLE agents ADD COLUMN offline_since timestamptz;
UPDATE agents SET offline_since = last_seen_at WHERE retired_at IS NULL AND last_seen_at < now() - interval '2 minutes';
CREATE INDEX agents_offline ON agents (id) WHERE offline_since IS NOT NULL;

-- The coordinators that run, and by their ids the encryption keys that each knows.
CREATE TABLE coordinators (
  id text PRIMARY KEY,
  keys text[] NOT NULL,
  until timestamptz NOT NULL
);
