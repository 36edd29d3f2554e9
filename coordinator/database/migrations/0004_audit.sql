-- The audit trail as it is kept: by months, sealed in batches, out of reach of the role that writes it.
-- Everything here works the same whether one role owns the schema and uses it, or two do.

-- Which cluster's transaction ids an event's `xact` counts in. They start anew where a dump is restored.
CREATE TABLE audit_eras (
  era integer PRIMARY KEY,
  cluster bigint NOT NULL,               -- PostgreSQL's system identifier
  began_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO audit_eras (era, cluster) SELECT 1, system_identifier FROM pg_control_system();

ALTER TABLE audit_events RENAME TO audit_events_before;
ALTER TABLE audit_events_before DROP CONSTRAINT audit_events_pkey;
ALTER SEQUENCE audit_events_id_seq RENAME TO audit_events_before_id_seq;
DROP INDEX audit_events_resource;

CREATE TABLE audit_events (
  id bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT now(),
  era integer NOT NULL DEFAULT 1,      -- audit_begin_era() moves the default on
  xact xid8 NOT NULL DEFAULT pg_current_xact_id(),  -- what batches go by: ids commit out of order
  actor text NOT NULL,                 -- key:…, agent:ag-…, system
  action text NOT NULL,                -- certificate.created, job.failed, …
  resource_type text NOT NULL,
  resource_id text NOT NULL,
  request_id text NOT NULL DEFAULT '',
  details jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
CREATE INDEX audit_events_id ON audit_events (id);
CREATE INDEX audit_events_sealing ON audit_events (era, xact);
CREATE INDEX audit_events_resource_type ON audit_events (resource_type, at, id);
CREATE INDEX audit_events_resource_id ON audit_events (resource_id, at, id);
CREATE INDEX audit_events_actor ON audit_events (actor, at, id);
CREATE INDEX audit_events_action ON audit_events (action, at, id);
CREATE INDEX audit_events_request ON audit_events (request_id, at, id) WHERE request_id <> '';
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The net below the months: an event of a month that nobody has made yet is stored here.
CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events_default
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The key that signs; there is one, and the table can hold more.
CREATE TABLE audit_keys (
  id text PRIMARY KEY,                 -- begin of the public key's SHA-256
  public_key bytea NOT NULL,           -- Ed25519, raw
  sealed_key bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- A batch holds the events of one half-open range of transaction ids, all of which had ended when it was sealed.
CREATE TABLE audit_batches (
  number bigint PRIMARY KEY CHECK (number > 0),
  era integer NOT NULL,
  from_xact xid8 NOT NULL,
  to_xact xid8 NOT NULL,
  events integer NOT NULL CHECK (events > 0),
  leaves bytea NOT NULL,               -- for each event its id, instant and SHA-256: 48 bytes, see core/trail.py
  previous bytea NOT NULL UNIQUE,      -- head of the batch before
  head bytea NOT NULL UNIQUE,
  key_id text NOT NULL REFERENCES audit_keys,
  signature bytea NOT NULL,
  sealed_at timestamptz NOT NULL,
  CHECK (from_xact < to_xact),
  UNIQUE (era, from_xact)
);

-- Months that retention has removed, each with the coordinator's signature: no other month may be missing.
CREATE TABLE audit_dropped_months (
  month date PRIMARY KEY,
  dropped_at timestamptz NOT NULL,
  key_id text NOT NULL REFERENCES audit_keys,
  signature bytea NOT NULL
);

-- How long events are kept, as whoever owns the schema has said; null: for ever. Bounds audit_drop_month().
CREATE TABLE audit_retention (
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  keep interval
);
INSERT INTO audit_retention (keep) VALUES (NULL);

CREATE TRIGGER audit_batches_append_only BEFORE UPDATE OR DELETE ON audit_batches
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_batches_no_truncate BEFORE TRUNCATE ON audit_batches
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_dropped_months_append_only BEFORE UPDATE OR DELETE ON audit_dropped_months
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_dropped_months_no_truncate BEFORE TRUNCATE ON audit_dropped_months
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What the application may have done with its owner's rights, and no more than that --------------------------------

-- Make the partition of a month; say whether it was made. What the net has of that month moves into it.
CREATE FUNCTION audit_make_month(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET timezone = 'UTC' AS $$
DECLARE
  low timestamptz := date_trunc('month', month::timestamp);
  high timestamptz := low + interval '1 month';
  partition text := 'audit_events_' || to_char(low, 'YYYY_MM');
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('audit_events partitions'));
  IF to_regclass(partition) IS NOT NULL THEN
    RETURN false;
  END IF;
  IF low NOT BETWEEN '2000-01-01' AND now() + interval '2 years' THEN
    RAISE EXCEPTION 'the month % is too far away', month;
  END IF;
  -- Attached, not made in place: that would stop everybody who writes.
  EXECUTE format('CREATE TABLE %I (LIKE audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
  IF EXISTS (SELECT FROM audit_events_default WHERE at >= low AND at < high) THEN
    LOCK TABLE audit_events_default IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE audit_events_default DISABLE TRIGGER audit_events_append_only;
    EXECUTE format('INSERT INTO %I SELECT * FROM audit_events_default WHERE at >= $1 AND at < $2', partition)
      USING low, high;
    DELETE FROM audit_events_default WHERE at >= low AND at < high;
    ALTER TABLE audit_events_default ENABLE TRIGGER audit_events_append_only;
  END IF;
  EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, low, high);
  EXECUTE format('CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON %I '
    'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', partition);
  RETURN true;
END $$;

-- The months that could go by now, the oldest first.
CREATE FUNCTION audit_expired_months() RETURNS SETOF date
LANGUAGE sql STABLE SECURITY DEFINER SET timezone = 'UTC' AS $$
  SELECT found.month FROM (
    SELECT to_date(substring(child.relname FROM '^audit_events_(\d{4}_\d{2})$'), 'YYYY_MM') AS month
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'audit_events'::regclass AND child.relname ~ '^audit_events_\d{4}_\d{2}$'
  ) AS found CROSS JOIN audit_retention
  WHERE (found.month + interval '1 month')::timestamptz < now() - audit_retention.keep ORDER BY 1
$$;

-- Drop a month whose retention is over, once every event of it is sealed; say whether it was dropped.
CREATE FUNCTION audit_drop_month(expired date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET timezone = 'UTC' AS $$
DECLARE
  partition text := 'audit_events_' || to_char(expired, 'YYYY_MM');
  open_ones boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('audit_events partitions'));
  IF to_regclass(partition) IS NULL THEN
    RETURN false;
  END IF;
  IF NOT EXISTS (SELECT FROM audit_expired_months() AS month WHERE month = expired) THEN
    RAISE EXCEPTION 'retention does not let % go', partition;
  END IF;
  EXECUTE format('SELECT EXISTS (SELECT FROM %I AS event WHERE NOT EXISTS (SELECT FROM audit_batches AS batch '
    'WHERE batch.era = event.era AND batch.to_xact > event.xact))', partition) INTO open_ones;
  IF open_ones THEN
    RETURN false;
  END IF;
  EXECUTE format('DROP TABLE %I', partition);
  RETURN true;
END $$;

-- Begin a new era when transaction ids do not go on from those of the last one: after a dump was restored elsewhere.
CREATE FUNCTION audit_begin_era() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET timezone = 'UTC' AS $$
DECLARE
  present audit_eras;
  here bigint := (SELECT system_identifier FROM pg_control_system());
BEGIN
  LOCK TABLE audit_eras IN SHARE ROW EXCLUSIVE MODE;
  SELECT * INTO present FROM audit_eras ORDER BY era DESC LIMIT 1;
  -- What a snapshot shows has ended before it, so its id is below the snapshot's end: unless it is of another cluster.
  IF present.cluster = here AND NOT EXISTS (
    SELECT FROM audit_events WHERE era = present.era AND xact >= pg_snapshot_xmax(pg_current_snapshot())
  ) THEN
    RETURN present.era;
  END IF;
  INSERT INTO audit_eras (era, cluster) VALUES (present.era + 1, here);
  EXECUTE format('ALTER TABLE audit_events ALTER COLUMN era SET DEFAULT %s', present.era + 1);
  RETURN present.era + 1;
END $$;

-- A function that runs with its owner's rights looks for names here and nowhere else.
DO $$
DECLARE
  name regprocedure;
BEGIN
  FOREACH name IN ARRAY ARRAY['audit_make_month(date)', 'audit_expired_months()', 'audit_drop_month(date)',
    'audit_begin_era()']::regprocedure[]
  LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
  END LOOP;
END $$;

-- What is there already: by months as well, and all of this one transaction, so that the first batch seals it.
SELECT audit_make_month(month::date) FROM (
  SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') AS month FROM audit_events_before
  UNION SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
    date_trunc('month', now() AT TIME ZONE 'UTC') + interval '3 months', interval '1 month')
) AS months WHERE month <= now() + interval '1 year';
INSERT INTO audit_events (id, at, actor, action, resource_type, resource_id, request_id, details)
  OVERRIDING SYSTEM VALUE
  SELECT id, at, actor, action, resource_type, resource_id, request_id, details FROM audit_events_before;
SELECT setval(pg_get_serial_sequence('audit_events', 'id'), (SELECT max(id) FROM audit_events_before));
DROP TABLE audit_events_before;
