-- The foundations: who may do what, what is wanted, what was issued, what is being attempted, what happened.
-- Instants are timestamptz. Serial numbers and fingerprints are lower-case hex without padding or colons.

-- People and rules ----------------------------------------------------------------------------------------------

CREATE TABLE teams (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE owners (
  id text PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL DEFAULT '',
  team_id text NOT NULL REFERENCES teams,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE issuers (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  type text NOT NULL,
  config jsonb NOT NULL DEFAULT '{}',
  enabled boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Keys of certificate authorities that sign here. A key that is no longer current still serves its CRL.
CREATE TABLE issuer_keys (
  issuer_id text NOT NULL REFERENCES issuers,
  ski text NOT NULL,
  chain bytea[] NOT NULL,              -- DER; this key's certificate first, then its issuers, a root included
  sealed_key bytea NOT NULL,
  is_current boolean NOT NULL DEFAULT true,
  not_after timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (issuer_id, ski)
);
CREATE UNIQUE INDEX issuer_keys_current ON issuer_keys (issuer_id) WHERE is_current;

CREATE TABLE crls (
  issuer_id text NOT NULL,
  ski text NOT NULL,
  number bigint NOT NULL,              -- RFC 5280 section 5.2.3: grows with every CRL
  this_update timestamptz NOT NULL,
  next_update timestamptz NOT NULL,
  der bytea NOT NULL,
  PRIMARY KEY (issuer_id, ski),
  FOREIGN KEY (issuer_id, ski) REFERENCES issuer_keys
);

CREATE TABLE profiles (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  description text NOT NULL DEFAULT '',
  default_issuer_id text NOT NULL REFERENCES issuers,
  key_algorithms text[] NOT NULL,      -- allowed, the first is the default
  default_lifetime_s bigint NOT NULL,
  max_lifetime_s bigint NOT NULL,
  extended_key_usages text[] NOT NULL,
  allowed_names text[] NOT NULL DEFAULT '{}',   -- patterns; empty allows every name
  enabled boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE renewal_policies (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  auto_renew boolean NOT NULL DEFAULT true,
  days_before integer,                 -- null: when a third of the lifetime is left
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Credentials ---------------------------------------------------------------------------------------------------

CREATE TABLE api_keys (
  id text PRIMARY KEY,
  name text NOT NULL,
  role text NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'auditor', 'admin')),
  lookup bytea NOT NULL,               -- the first bytes of the digest: finds the row, decides nothing
  digest bytea NOT NULL,               -- compared in constant time
  source text NOT NULL CHECK (source IN ('environment', 'database')),
  expires_at timestamptz,
  disabled_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX api_keys_lookup ON api_keys (lookup);

CREATE TABLE agents (
  id text PRIMARY KEY,
  name text NOT NULL,
  identity_key bytea NOT NULL UNIQUE,  -- Ed25519, raw
  sealing_key bytea NOT NULL,          -- X25519, raw
  hostname text NOT NULL DEFAULT '',
  os text NOT NULL DEFAULT '',
  architecture text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  version text NOT NULL DEFAULT '',
  skew_ms bigint NOT NULL DEFAULT 0,   -- the agent's clock minus the coordinator's
  last_seen_at timestamptz NOT NULL DEFAULT now(),
  enrolled_at timestamptz NOT NULL DEFAULT now(),
  retired_at timestamptz
);
CREATE UNIQUE INDEX agents_name ON agents (name) WHERE retired_at IS NULL;

CREATE TABLE enrollment_tokens (
  id text PRIMARY KEY,
  digest bytea NOT NULL UNIQUE,
  note text NOT NULL DEFAULT '',
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  used_by text REFERENCES agents,      -- a repeat by the same agent is harmless
  used_at timestamptz
);

CREATE TABLE agent_nonces (
  digest bytea PRIMARY KEY,
  agent_id text NOT NULL REFERENCES agents,
  expires_at timestamptz NOT NULL
);

CREATE TABLE agent_sessions (
  digest bytea PRIMARY KEY,
  agent_id text NOT NULL REFERENCES agents,
  expires_at timestamptz NOT NULL
);
CREATE INDEX agent_sessions_expiry ON agent_sessions (expires_at);

-- What is wanted ------------------------------------------------------------------------------------------------

CREATE TABLE targets (
  id text PRIMARY KEY,
  name text NOT NULL,
  type text NOT NULL,
  agent_id text NOT NULL REFERENCES agents,
  config jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (agent_id, name)
);

CREATE TABLE certificates (
  id text PRIMARY KEY,
  name text NOT NULL,
  common_name text NOT NULL,
  names jsonb NOT NULL,                -- [{"kind": "dns", "value": "…"}, …]
  profile_id text NOT NULL REFERENCES profiles,
  issuer_id text NOT NULL REFERENCES issuers,
  renewal_policy_id text NOT NULL REFERENCES renewal_policies,
  owner_id text NOT NULL REFERENCES owners,
  team_id text NOT NULL REFERENCES teams,
  environment text NOT NULL DEFAULT '',
  tags jsonb NOT NULL DEFAULT '{}',
  key_algorithm text NOT NULL,
  lifetime_s bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX certificates_listing ON certificates (created_at DESC, id DESC);
CREATE INDEX certificates_common_name ON certificates (common_name);

-- Who holds a key for a certificate: one row for each agent. The newest version of a holder is what its targets want.
CREATE TABLE holders (
  certificate_id text NOT NULL REFERENCES certificates,
  agent_id text NOT NULL REFERENCES agents,
  version_id text,
  renew_at timestamptz,                -- null: nothing issued yet, or renewal switched off
  failures integer NOT NULL DEFAULT 0, -- issuance attempts that failed in a row
  reason text NOT NULL DEFAULT '',     -- why there is no newer version, for a person
  PRIMARY KEY (certificate_id, agent_id)
);
CREATE INDEX holders_due ON holders (renew_at);
CREATE INDEX holders_agent ON holders (agent_id);

CREATE TABLE bindings (
  certificate_id text NOT NULL REFERENCES certificates,
  target_id text NOT NULL REFERENCES targets,
  desired_version_id text,
  served_version_id text,
  served_at timestamptz,
  failures integer NOT NULL DEFAULT 0,
  reason text NOT NULL DEFAULT '',     -- why the desired version is not served, for a person
  PRIMARY KEY (certificate_id, target_id)
);
CREATE UNIQUE INDEX bindings_target ON bindings (target_id);  -- a target has one place for one certificate
CREATE INDEX bindings_unsatisfied ON bindings (certificate_id)
  WHERE desired_version_id IS DISTINCT FROM served_version_id;

-- What was issued -----------------------------------------------------------------------------------------------

CREATE TABLE issuer_certificates (       -- stored once, shared by every chain
  fingerprint text PRIMARY KEY,
  der bytea NOT NULL
);

CREATE TABLE certificate_versions (
  id text PRIMARY KEY,
  certificate_id text NOT NULL REFERENCES certificates,
  generation integer NOT NULL,
  holder text NOT NULL,                -- an agent's id
  issuer_id text NOT NULL REFERENCES issuers,
  issuer_ski text NOT NULL,
  serial text NOT NULL,
  fingerprint text NOT NULL UNIQUE,
  spki_sha256 text NOT NULL,
  key_algorithm text NOT NULL,
  not_before timestamptz NOT NULL,
  not_after timestamptz NOT NULL,
  der bytea NOT NULL,
  chain text[] NOT NULL,               -- fingerprints of issuer certificates, leaf's issuer first, no root
  revoked_at timestamptz,
  revocation_reason text,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (certificate_id, holder, generation),
  UNIQUE (issuer_id, serial)
);
CREATE INDEX certificate_versions_key ON certificate_versions (spki_sha256);
CREATE INDEX certificate_versions_revoked ON certificate_versions (issuer_id, issuer_ski) WHERE revoked_at IS NOT NULL;
ALTER TABLE holders ADD FOREIGN KEY (version_id) REFERENCES certificate_versions;
ALTER TABLE bindings ADD FOREIGN KEY (desired_version_id) REFERENCES certificate_versions;
ALTER TABLE bindings ADD FOREIGN KEY (served_version_id) REFERENCES certificate_versions;

-- Attempts ------------------------------------------------------------------------------------------------------

CREATE TABLE jobs (
  id text PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('issuance', 'deployment')),
  run_id text NOT NULL,                -- the issuance job that started it all
  certificate_id text NOT NULL REFERENCES certificates,
  agent_id text NOT NULL REFERENCES agents,
  target_id text REFERENCES targets,
  version_id text REFERENCES certificate_versions,
  state text NOT NULL,
  trigger text NOT NULL,               -- created | due | requested | issued | retry | reconciled
  attempt integer NOT NULL DEFAULT 1,
  not_before timestamptz NOT NULL DEFAULT now(),
  lease_epoch integer NOT NULL DEFAULT 0,
  lease_owner text NOT NULL DEFAULT '',  -- the agent process (boot) that holds it
  lease_until timestamptz,
  failure jsonb,                       -- {"step", "cause", "transient"}
  timeline jsonb NOT NULL DEFAULT '[]',  -- [{"step", "at", "ms"?, "detail"?}, …]
  undo text NOT NULL DEFAULT '',       -- not_needed | done | failed, once an agent has reported
  served_fingerprint text NOT NULL DEFAULT '',  -- what the agent saw on the wire last
  report jsonb,                        -- the agent's words and its signature, as received
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz,
  finished_at timestamptz,
  CHECK ((kind = 'deployment') = (target_id IS NOT NULL)),
  CHECK (CASE kind
    WHEN 'issuance' THEN state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Completed', 'Failed', 'Cancelled')
    ELSE state IN ('Pending', 'Running', 'Completed', 'Failed', 'Cancelled') END)
);
CREATE UNIQUE INDEX jobs_one_issuance ON jobs (certificate_id, agent_id)
  WHERE kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA');
CREATE UNIQUE INDEX jobs_one_deployment ON jobs (certificate_id, target_id)
  WHERE kind = 'deployment' AND state IN ('Pending', 'Running');
CREATE INDEX jobs_for_agent ON jobs (agent_id, not_before) WHERE state IN ('AwaitingCSR', 'Pending', 'Running');
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state IN ('AwaitingCSR', 'Running');
CREATE INDEX jobs_listing ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_run ON jobs (run_id);
CREATE INDEX jobs_certificate ON jobs (certificate_id, created_at DESC);

-- The gate: a row stands here before any authority is asked for a signature.
CREATE TABLE issuance_requests (
  id text PRIMARY KEY,
  source text NOT NULL,                -- agent
  requester text NOT NULL,             -- e.g. agent:ag-…
  certificate_id text NOT NULL REFERENCES certificates,
  job_id text NOT NULL UNIQUE REFERENCES jobs,
  issuer_id text NOT NULL REFERENCES issuers,
  issuer_ski text NOT NULL,            -- the CA key that signs, fixed with the serial number
  spki_sha256 text NOT NULL,
  csr bytea NOT NULL,
  state text NOT NULL CHECK (state IN ('signing', 'issued')),
  serial text NOT NULL,                -- chosen before signing, so that every signature ever made is known
  not_before timestamptz NOT NULL,
  not_after timestamptz NOT NULL,
  version_id text REFERENCES certificate_versions,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (issuer_id, serial)
);
CREATE INDEX issuance_requests_interrupted ON issuance_requests (created_at) WHERE state = 'signing';

-- What happened -------------------------------------------------------------------------------------------------

CREATE TABLE audit_events (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,                 -- key:…, agent:ag-…, system
  action text NOT NULL,                -- certificate.created, job.failed, …
  resource_type text NOT NULL,
  resource_id text NOT NULL,
  request_id text NOT NULL DEFAULT '',
  details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_events_resource ON audit_events (resource_type, resource_id, id DESC);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The coordinator itself ----------------------------------------------------------------------------------------

CREATE TABLE server_ca (                 -- the authority behind the coordinator's own HTTPS; shared by replicas
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  der bytea NOT NULL,
  sealed_key bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
