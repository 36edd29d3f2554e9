-- Certificates that are changed, archived and searched. Jobs may be queued by the trigger 'changed'.

-- The words of a certificate's names: what stands between dots, hyphens and other punctuation, in lower case.
CREATE FUNCTION search_words(name text, names jsonb) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT array_to_tsvector(array_remove(regexp_split_to_array(
    lower(name || ' ' || jsonb_path_query_array(names, '$[*].value')::text), '[[:punct:][:space:]]+'), ''))
$$;

ALTER TABLE certificates
  ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN agent_id text REFERENCES agents,  -- holds a key for it, whether or not one of its targets asks for that
  ADD COLUMN archived_at timestamptz,
  ADD COLUMN archived boolean NOT NULL GENERATED ALWAYS AS (archived_at IS NOT NULL) STORED,
  -- How it stands, as far as no clock is needed for it; lists filter and sort by these. Kept by stand_anew() below.
  ADD COLUMN standing text NOT NULL DEFAULT 'pending' CHECK (standing IN ('pending', 'revoked', 'issued')),
  ADD COLUMN service text NOT NULL DEFAULT 'unknown'
    CHECK (service IN ('served', 'partly', 'outdated', 'not served', 'unknown')),
  ADD COLUMN expires_at timestamptz NOT NULL DEFAULT 'infinity',
  ADD COLUMN renew_at timestamptz NOT NULL DEFAULT 'infinity',
  ADD COLUMN search tsvector NOT NULL GENERATED ALWAYS AS (search_words(name, names)) STORED;

-- An agent that holds a certificate without any of its targets was asked to by agent_id.
UPDATE certificates SET agent_id = holders.agent_id FROM holders
WHERE holders.certificate_id = certificates.id AND NOT EXISTS (
  SELECT FROM bindings JOIN targets ON targets.id = bindings.target_id
  WHERE bindings.certificate_id = holders.certificate_id AND targets.agent_id = holders.agent_id);

-- Filters come first, then what the list is sorted by when nothing else is asked for: a page is read in its order
-- whether few or nearly all certificates match.
DROP INDEX certificates_listing, certificates_common_name, certificates_team, certificates_owner, certificates_issuer,
  certificates_profile;
CREATE INDEX certificates_listing ON certificates (archived, created_at DESC, id DESC);
CREATE INDEX certificates_environment ON certificates (environment, archived, created_at DESC, id DESC);
CREATE INDEX certificates_owner ON certificates (owner_id, archived, created_at DESC, id DESC);
CREATE INDEX certificates_team ON certificates (team_id, archived, created_at DESC, id DESC);
CREATE INDEX certificates_issuer ON certificates (issuer_id, archived, created_at DESC, id DESC);
CREATE INDEX certificates_profile ON certificates (profile_id, archived, created_at DESC, id DESC);
CREATE INDEX certificates_policy ON certificates (renewal_policy_id, archived, created_at DESC, id DESC);
CREATE INDEX certificates_standing ON certificates (standing, archived, created_at DESC, id DESC);
CREATE INDEX certificates_service ON certificates (service, archived, created_at DESC, id DESC);
CREATE INDEX certificates_expiry ON certificates (archived, expires_at, id) INCLUDE (standing, renew_at, created_at);
CREATE INDEX certificates_renewal ON certificates (archived, renew_at, id) INCLUDE (standing, expires_at, created_at);
CREATE INDEX certificates_updates ON certificates (archived, updated_at, id);
CREATE INDEX certificates_name ON certificates (archived, name, id);
CREATE INDEX certificates_common_name ON certificates (archived, common_name, id);
CREATE INDEX certificates_by_environment ON certificates (archived, environment, id);
CREATE INDEX certificates_tags ON certificates USING gin (tags jsonb_path_ops) WITH (gin_pending_list_limit = 256);
-- What waits to be sorted into it is read by every search: not much may.
CREATE INDEX certificates_search ON certificates USING gin (search) WITH (gin_pending_list_limit = 256);
DROP INDEX holders_agent;
CREATE INDEX holders_agent ON holders (agent_id, certificate_id);
CREATE INDEX holders_unissued ON holders (certificate_id, agent_id) WHERE version_id IS NULL;
CREATE INDEX certificate_versions_listing ON certificate_versions (certificate_id, created_at DESC, id DESC);
CREATE INDEX jobs_agent ON jobs (agent_id, created_at DESC, id DESC);
CREATE INDEX jobs_state ON jobs (state, created_at DESC, id DESC);
DROP INDEX jobs_certificate;
CREATE INDEX jobs_certificate ON jobs (certificate_id, created_at DESC, id DESC);

-- Whoever changes holders, bindings or versions has the certificates' columns right in the same transaction. They are
-- locked first: of two changes at once the second sees what the first has done. A transaction that also locks jobs
-- locks the certificate before them. A version of the holder 'imported' was issued elsewhere; it counts while nobody holds one.
CREATE FUNCTION stand_anew(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
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

CREATE FUNCTION stand_of_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM stand_anew(ARRAY(SELECT DISTINCT certificate_id FROM new_rows));
  RETURN NULL;
END $$;
CREATE FUNCTION stand_of_old() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM stand_anew(ARRAY(SELECT DISTINCT certificate_id FROM old_rows));
  RETURN NULL;
END $$;
CREATE FUNCTION stand_of_holders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM stand_anew(ARRAY(
    SELECT DISTINCT certificate_id FROM old_rows JOIN new_rows USING (certificate_id, agent_id)
    WHERE (old_rows.version_id, old_rows.renew_at) IS DISTINCT FROM (new_rows.version_id, new_rows.renew_at)));
  RETURN NULL;
END $$;
CREATE FUNCTION stand_of_bindings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM stand_anew(ARRAY(
    SELECT DISTINCT certificate_id FROM old_rows JOIN new_rows USING (certificate_id, target_id)
    WHERE (old_rows.desired_version_id, old_rows.served_version_id)
      IS DISTINCT FROM (new_rows.desired_version_id, new_rows.served_version_id)));
  RETURN NULL;
END $$;
CREATE FUNCTION stand_of_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM stand_anew(ARRAY(
    SELECT DISTINCT new_rows.certificate_id FROM old_rows JOIN new_rows USING (id)
    WHERE (old_rows.revoked_at, old_rows.not_after) IS DISTINCT FROM (new_rows.revoked_at, new_rows.not_after)));
  RETURN NULL;
END $$;

CREATE TRIGGER holders_added AFTER INSERT ON holders REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION stand_of_new();
CREATE TRIGGER holders_removed AFTER DELETE ON holders REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION stand_of_old();
CREATE TRIGGER holders_changed AFTER UPDATE ON holders REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION stand_of_holders();
CREATE TRIGGER bindings_added AFTER INSERT ON bindings REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION stand_of_new();
CREATE TRIGGER bindings_removed AFTER DELETE ON bindings REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION stand_of_old();
CREATE TRIGGER bindings_changed AFTER UPDATE ON bindings REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION stand_of_bindings();
CREATE TRIGGER versions_changed AFTER UPDATE ON certificate_versions
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION stand_of_versions();

SELECT stand_anew(ARRAY(SELECT id FROM certificates));
