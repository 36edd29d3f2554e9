-- Operations on many certificates, and certificates that were imported. Jobs may be queued by the trigger 'revoked'.

-- The items of an operation are chosen once, when it is planned or started: counts stay exact whatever changes later.
CREATE TABLE operations (
  id text PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('renew', 'revoke', 'reassign', 'deploy')),
  state text NOT NULL CHECK (state IN ('planned', 'running', 'cancelling', 'completed', 'cancelled')),
  actor text NOT NULL,
  teams text[],                        -- what the actor may see; null where any
  environments text[],
  request_id text NOT NULL,
  criteria jsonb NOT NULL,             -- which certificates were asked for: {"ids": …} or {"filter": …}
  options jsonb NOT NULL,              -- what to do with each, by kind
  total integer NOT NULL DEFAULT 0,
  succeeded integer NOT NULL DEFAULT 0,
  skipped integer NOT NULL DEFAULT 0,
  failed integer NOT NULL DEFAULT 0,
  cancelled integer NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,              -- of a plan that nobody has started
  started_at timestamptz,
  finished_at timestamptz
);
CREATE INDEX operations_listing ON operations (created_at DESC, id DESC);
CREATE INDEX operations_live ON operations (created_at, id) WHERE state IN ('running', 'cancelling');
CREATE INDEX operations_plans ON operations (expires_at) WHERE state = 'planned';
CREATE INDEX operations_finished ON operations (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE operation_items (
  operation_id text NOT NULL,
  certificate_id text NOT NULL,        -- as it was asked for; there may be none
  outcome text NOT NULL DEFAULT 'waiting'
    CHECK (outcome IN ('waiting', 'succeeded', 'skipped', 'failed', 'cancelled')),
  detail text NOT NULL DEFAULT '',     -- why it was skipped or failed, for a person
  job_ids text[] NOT NULL DEFAULT '{}',
  finished_at timestamptz,
  PRIMARY KEY (operation_id, certificate_id)
);
CREATE INDEX operation_items_outcome ON operation_items (operation_id, outcome, certificate_id);

-- A certificate that was imported has a version that was issued elsewhere, of the holder 'imported': nobody here has its
-- key, nobody renews it. Once an agent holds the certificate, it stands as others do.
ALTER TABLE certificates ADD COLUMN source text NOT NULL DEFAULT 'api';
ALTER TABLE certificate_versions ALTER COLUMN issuer_id DROP NOT NULL;
