-- Numbers that are kept with every change, so that nobody counts a fleet to know them; and views that people save.

-- How a certificate that was issued stands at a moment; the columns are those that stand_anew() keeps.
CREATE FUNCTION life_at(standing text, expires_at timestamptz, renew_at timestamptz, moment timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN standing <> 'issued' THEN standing WHEN expires_at <= moment THEN 'expired'
    WHEN renew_at <= moment THEN 'due' ELSE 'valid' END
$$;

-- certificate: those that are not archived; `what` is their standing, `day` when they end, `due_on` when they are due.
-- job: those that ended, `what` is kind and state; version: those that were issued. `day` is when. Days are UTC's.
CREATE TABLE tallies (
  about text NOT NULL CHECK (about IN ('certificate', 'job', 'version')),
  team_id text NOT NULL,               -- '*' with environment '*': the sum over all of them
  environment text NOT NULL,
  day date NOT NULL,
  due_on date NOT NULL,
  what text NOT NULL,
  service text NOT NULL,
  number bigint NOT NULL,
  PRIMARY KEY (about, team_id, environment, day, due_on, what, service)
);
CREATE INDEX tallies_environment ON tallies (about, environment, day);

-- What has changed since: rows are only added, so that those who change certificates do not wait for each other. A
-- number is the sum of both tables; a loop moves these rows into the other one, some seconds later.
CREATE TABLE tally_changes (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  about text NOT NULL,
  team_id text NOT NULL,
  environment text NOT NULL,
  day date NOT NULL,
  due_on date NOT NULL,
  what text NOT NULL,
  service text NOT NULL,
  number bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

CREATE FUNCTION utc_day(moment timestamptz) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (moment AT TIME ZONE 'UTC')::date
$$;

CREATE FUNCTION tally_certificates() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO tally_changes (about, team_id, environment, day, due_on, what, service, number)
    SELECT 'certificate', team_id, environment, utc_day(expires_at), utc_day(renew_at), standing, service, count(*)
    FROM new_rows WHERE archived_at IS NULL GROUP BY 2, 3, 4, 5, 6, 7;
  ELSE
    INSERT INTO tally_changes (about, team_id, environment, day, due_on, what, service, number)
    SELECT 'certificate', team_id, environment, utc_day(expires_at), utc_day(renew_at), standing, service, sum(number)
    FROM (
      SELECT team_id, environment, expires_at, renew_at, standing, service, -1 AS number
      FROM old_rows WHERE archived_at IS NULL
      UNION ALL
      SELECT team_id, environment, expires_at, renew_at, standing, service, 1 FROM new_rows WHERE archived_at IS NULL
    ) AS changed GROUP BY 2, 3, 4, 5, 6, 7 HAVING sum(number) <> 0;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER certificates_added AFTER INSERT ON certificates REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION tally_certificates();
CREATE TRIGGER certificates_changed AFTER UPDATE ON certificates REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION tally_certificates();

CREATE FUNCTION tally_happened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tally_changes (about, team_id, environment, day, due_on, what, service, number)
  SELECT TG_ARGV[0], team_id, environment, utc_day(now()), 'infinity',
    CASE TG_ARGV[0] WHEN 'job' THEN concat(to_jsonb(NEW) ->> 'kind', ' ', to_jsonb(NEW) ->> 'state') ELSE 'issued' END,
    '', 1
  FROM certificates WHERE id = NEW.certificate_id;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_ended AFTER UPDATE OF state ON jobs FOR EACH ROW
  WHEN (NEW.state IN ('Completed', 'Failed', 'Cancelled') AND NEW.state IS DISTINCT FROM OLD.state)
  EXECUTE FUNCTION tally_happened('job');
CREATE TRIGGER versions_added AFTER INSERT ON certificate_versions FOR EACH ROW
  EXECUTE FUNCTION tally_happened('version');

-- Move what has changed into the sums; return how many rows that were. Two at once double nothing.
CREATE FUNCTION fold_tallies(most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  moved integer;
BEGIN
  WITH taken AS (
    DELETE FROM tally_changes
    WHERE id IN (SELECT id FROM tally_changes ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED) RETURNING *
  ), added AS (
    INSERT INTO tallies (about, team_id, environment, day, due_on, what, service, number)
    SELECT about, team_id, environment, day, due_on, what, service, sum(number) FROM (
      SELECT * FROM taken UNION ALL
      SELECT id, about, '*', '*', day, due_on, what, service, number FROM taken
    ) AS both_ GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(number) <> 0 ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (about, team_id, environment, day, due_on, what, service)
      DO UPDATE SET number = tallies.number + excluded.number
    RETURNING 1
  )
  SELECT count(*) INTO moved FROM taken;
  RETURN moved;
END $$;

-- Count everything: for rows that came in without triggers. Nobody may change certificates meanwhile.
CREATE FUNCTION tally_anew() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM tallies;
  DELETE FROM tally_changes;
  INSERT INTO tally_changes (about, team_id, environment, day, due_on, what, service, number)
  SELECT 'certificate', team_id, environment, utc_day(expires_at), utc_day(renew_at), standing, service, count(*)
  FROM certificates WHERE archived_at IS NULL GROUP BY 2, 3, 4, 5, 6, 7
  UNION ALL
  SELECT 'job', team_id, environment, utc_day(coalesce(finished_at, jobs.created_at)), 'infinity',
    concat(kind, ' ', state), '', count(*)
  FROM jobs JOIN certificates ON certificates.id = jobs.certificate_id
  WHERE state IN ('Completed', 'Failed', 'Cancelled') GROUP BY 2, 3, 4, 6
  UNION ALL
  SELECT 'version', team_id, environment, utc_day(versions.created_at), 'infinity', 'issued', '', count(*)
  FROM certificate_versions AS versions JOIN certificates ON certificates.id = versions.certificate_id
  GROUP BY 2, 3, 4;
  PERFORM fold_tallies(2147483647);
END $$;
SELECT tally_anew();

-- What is in hand and how long it waits; what fails at present.
CREATE INDEX jobs_live ON jobs (state, not_before)
  WHERE state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running');
CREATE INDEX holders_failed ON holders (certificate_id) WHERE failures > 0;
CREATE INDEX bindings_failed ON bindings (certificate_id) WHERE failures > 0;

-- Names that a search finds by their beginning, whatever the database's collation is.
CREATE INDEX targets_by_name ON targets (lower(name) text_pattern_ops) WHERE archived_at IS NULL;
CREATE INDEX agents_by_name ON agents (lower(name) text_pattern_ops) WHERE retired_at IS NULL;
CREATE INDEX owners_by_name ON owners (lower(name) text_pattern_ops);

-- Where the trace of a request goes on, W3C's traceparent; empty where it is not traced.
ALTER TABLE jobs ADD COLUMN traceparent text NOT NULL DEFAULT '';

-- Searches and filters that somebody gave a name.
CREATE TABLE saved_views (
  id text PRIMARY KEY,
  owner text NOT NULL,                 -- the actor who saved it, e.g. person:prs-… or key:key-…
  name text NOT NULL,
  page text NOT NULL,                  -- the list that it is a view of
  filters jsonb NOT NULL DEFAULT '{}',
  shared boolean NOT NULL DEFAULT false,
  teams text[],                        -- what its owner sees: who sees less does not see the view, if it is shared
  environments text[],
  revision integer NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (owner, name)
);
CREATE INDEX saved_views_shared ON saved_views (created_at DESC, id DESC) WHERE shared;
CREATE INDEX saved_views_owner ON saved_views (owner, created_at DESC, id DESC);
