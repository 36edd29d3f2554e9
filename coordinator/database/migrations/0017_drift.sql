-- What agents find when they look again at what they installed, and whether that is repaired.

ALTER TABLE bindings ADD COLUMN drift text NOT NULL DEFAULT ''
  CHECK (drift IN ('', 'changed', 'missing', 'served differs'));
ALTER TABLE bindings ADD COLUMN drift_since timestamptz;
CREATE INDEX bindings_drifted ON bindings (target_id) INCLUDE (certificate_id) WHERE drift <> '';

ALTER TABLE renewal_policies ADD COLUMN on_drift text NOT NULL DEFAULT 'repair' CHECK (on_drift IN ('repair', 'report'));

-- "drifted": somewhere an installation is not as it was left, and all others are served.
ALTER TABLE certificates DROP CONSTRAINT certificates_service_check;
ALTER TABLE certificates ADD CONSTRAINT certificates_service_check
  CHECK (service IN ('served', 'partly', 'drifted', 'outdated', 'not served', 'unknown'));

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
      CASE WHEN bound.issued = 0 THEN 'unknown'
        WHEN bound.drifted > 0 AND bound.sound + bound.drifted = bound.number THEN 'drifted'
        WHEN bound.served = bound.number THEN 'served'
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
        count(*) FILTER (WHERE served_version_id = desired_version_id) AS served,
        count(*) FILTER (WHERE served_version_id = desired_version_id AND drift = '') AS sound,
        count(*) FILTER (WHERE drift <> '') AS drifted
      FROM bindings WHERE bindings.certificate_id = wanted.id
    ) AS bound
  ) AS found
  WHERE certificates.id = found.id
    AND (certificates.standing, certificates.service, certificates.expires_at, certificates.renew_at)
      IS DISTINCT FROM (found.standing, found.service, found.expires_at, found.renew_at);
END $$;

CREATE OR REPLACE FUNCTION stand_of_bindings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM stand_anew(ARRAY(
    SELECT DISTINCT certificate_id FROM old_rows JOIN new_rows USING (certificate_id, target_id)
    WHERE (old_rows.desired_version_id, old_rows.served_version_id, old_rows.drift)
      IS DISTINCT FROM (new_rows.desired_version_id, new_rows.served_version_id, new_rows.drift)));
  RETURN NULL;
END $$;
