-- Answers that are kept for repetitions of a request under the same Idempotency-Key.
CREATE TABLE idempotency_keys (
  actor text NOT NULL,
  key text NOT NULL,
  request bytea NOT NULL,              -- SHA-256 of method, path, query and body
  answer bytea NOT NULL DEFAULT '',    -- sealed
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- What people make and change counts its revisions: an ETag is one.
ALTER TABLE teams ADD COLUMN description text NOT NULL DEFAULT '', ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE owners ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX owners_team ON owners (team_id);
CREATE INDEX certificates_team ON certificates (team_id);
CREATE INDEX certificates_owner ON certificates (owner_id);
