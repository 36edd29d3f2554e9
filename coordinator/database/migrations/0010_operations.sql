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

CREATE OR REPLACE FUNCTION stand_anew(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF cardinality(ids) = 0 THEN
    RETURN;
  END IF;
  PERFORM FROM certificates WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
  UPDATE certificates SET standing = found.standing, service = found.service, expires_at = found.expires_at,
    renew_at = found.renew_at
  FROM (
    SELECT wanted.id,
      CASE WHEN held.number = 0 THEN coalesce(imported.standing, 'pending') WHEN held.lacking THEN 'pending'
        WHEN held.revoked THEN 'revoked' ELSE 'issued' END AS standing,
      CASE WHEN bound.issued = 0 THEN 'unknown' WHEN bound.served = bound.number THEN 'served'
        WHEN bound.served > 0 THEN 'partly' WHEN bound.before = bound.number THEN 'outdated' ELSE 'not served' END
        AS service,
      coalesce(held.expires_at, imported.not_after, 'infinity') AS expires_at,
      coalesce(held.renew_at, 'infinity') AS renew_at
    FROM unnest(ids) AS wanted (id)
    CROSS JOIN LATERAL (
      SELECT count(*) AS number, coalesce(bool_or(version_id IS NULL), false) AS lacking,
        coalesce(bool_or(revoked_at IS NOT NULL), false) AS revoked, min(not_after) AS expires_at,
        min(holders.renew_at) AS renew_at
      FROM holders LEFT JOIN certificate_versions AS versions ON versions.id = holders.version_id
      WHERE holders.certificate_id = wanted.id
    ) AS held
    LEFT JOIN LATERAL (
      SELECT CASE WHEN revoked_at IS NULL THEN 'issued' ELSE 'revoked' END AS standing, not_after
      FROM certificate_versions AS versions
      WHERE held.number = 0 AND versions.certificate_id = wanted.id AND holder = 'imported'
      ORDER BY generation DESC LIMIT 1
    ) AS imported ON true
    CROSS JOIN LATERAL (
      SELECT count(*) AS number, count(desired_version_id) AS issued, count(served_version_id) AS before,
        count(*) FILTER (WHERE served_version_id = desired_version_id) AS served
      FROM bindings WHERE bindings.certificate_id = wanted.id
    ) AS bound
  ) AS found
  WHERE certificates.id = found.id
    AND (certificates.standing, certificates.service, certificates.expires_at, certificates.renew_at)
      IS DISTINCT FROM (found.standing, found.service, found.expires_at, found.renew_at);
END $$;
