-- The ACME server: accounts, orders, authorizations, keys of external accounts; certificates whose key is a client's.

ALTER TABLE profiles
  ADD COLUMN acme_auth_mode text  -- null: as CERTCTL_ACME_SERVER_DEFAULT_AUTH_MODE says
    CHECK (acme_auth_mode IN ('trust_authenticated', 'challenge')),
  ADD COLUMN acme_open_accounts boolean NOT NULL DEFAULT false;

-- Nobody here holds the key of what a client enrolled: its jobs have no agent, its versions the holder 'client'.
ALTER TABLE jobs ALTER COLUMN agent_id DROP NOT NULL;
ALTER TABLE jobs ADD CHECK (agent_id IS NOT NULL OR kind = 'issuance');
ALTER TABLE approvals ALTER COLUMN agent_id DROP NOT NULL;
ALTER TABLE certificate_versions ADD COLUMN replace_at timestamptz;  -- somebody asked for it to be replaced

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
      WHERE held.number = 0 AND versions.certificate_id = wanted.id AND holder IN ('imported', 'client')
      ORDER BY created_at DESC, generation DESC LIMIT 1
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

CREATE TABLE acme_eab_keys (
  id text PRIMARY KEY,                 -- the key identifier that clients send
  name text NOT NULL,
  sealed_key bytea NOT NULL,           -- the HMAC key
  profile_ids text[] NOT NULL DEFAULT '{}',    -- none: every profile
  allowed_names text[] NOT NULL DEFAULT '{}',  -- patterns; none: what the profile allows
  wildcards boolean NOT NULL DEFAULT true,
  reusable boolean NOT NULL DEFAULT false,     -- whether more than one account may be bound with it
  owner_id text NOT NULL DEFAULT 'default' REFERENCES owners,
  team_id text NOT NULL DEFAULT 'default' REFERENCES teams,
  environment text NOT NULL DEFAULT '',
  created_by text NOT NULL,
  expires_at timestamptz,
  disabled_at timestamptz,
  revision integer NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX acme_eab_keys_listing ON acme_eab_keys (created_at DESC, id DESC);

CREATE TABLE acme_accounts (
  id text PRIMARY KEY,
  profile_id text NOT NULL REFERENCES profiles,
  thumbprint text NOT NULL,            -- RFC 7638, SHA-256
  jwk jsonb NOT NULL,                  -- public
  contact text[] NOT NULL DEFAULT '{}',
  status text NOT NULL DEFAULT 'valid' CHECK (status IN ('valid', 'deactivated', 'revoked')),
  eab_key_id text REFERENCES acme_eab_keys,
  terms_agreed_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (profile_id, thumbprint)
);
CREATE INDEX acme_accounts_listing ON acme_accounts (created_at DESC, id DESC);
CREATE INDEX acme_accounts_eab ON acme_accounts (eab_key_id);

CREATE TABLE acme_authorizations (
  id text PRIMARY KEY,
  account_id text NOT NULL REFERENCES acme_accounts,
  kind text NOT NULL,                  -- dns | ip
  value text NOT NULL,                 -- without the "*." of a wildcard
  wildcard boolean NOT NULL DEFAULT false,
  mode text NOT NULL,                  -- the profile's when it was made
  status text NOT NULL CHECK (status IN ('pending', 'valid', 'invalid', 'deactivated')),
  challenges jsonb NOT NULL,           -- [{"type", "token", "status", "validated"?, "error"?, "evidence"?}, …]
  answered_at timestamptz,             -- since when a challenge is looked at
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX acme_authorizations_answered ON acme_authorizations (answered_at) WHERE status = 'pending';
CREATE INDEX acme_authorizations_names ON acme_authorizations (account_id, kind, value, wildcard, expires_at);
CREATE INDEX acme_authorizations_expiry ON acme_authorizations (expires_at);

CREATE TABLE acme_orders (
  id text PRIMARY KEY,
  account_id text NOT NULL REFERENCES acme_accounts,
  profile_id text NOT NULL REFERENCES profiles,
  identifiers jsonb NOT NULL,          -- [{"type", "value"}, …] as they were ordered
  authorization_ids text[] NOT NULL,
  not_before timestamptz,
  not_after timestamptz,
  replaces text,                       -- RFC 9773 section 5
  error jsonb,                         -- set: the order is invalid
  certificate_id text REFERENCES certificates,
  job_id text REFERENCES jobs,         -- set: finalize was called; how it went is the job's to say
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX acme_orders_account ON acme_orders (account_id, created_at DESC, id DESC);
CREATE INDEX acme_orders_listing ON acme_orders (created_at DESC, id DESC);
CREATE INDEX acme_orders_open ON acme_orders (account_id, expires_at) WHERE job_id IS NULL AND error IS NULL;
CREATE INDEX acme_orders_expiry ON acme_orders (expires_at);
CREATE UNIQUE INDEX acme_orders_replaces ON acme_orders (replaces) WHERE replaces IS NOT NULL AND error IS NULL;
CREATE INDEX acme_orders_job ON acme_orders (job_id);

-- One certificate for an account, its profile and a set of names, whatever the order of the names.
CREATE TABLE acme_certificates (
  account_id text NOT NULL REFERENCES acme_accounts,
  names_sha256 text NOT NULL,
  certificate_id text NOT NULL UNIQUE REFERENCES certificates,
  PRIMARY KEY (account_id, names_sha256)
);

CREATE TABLE acme_nonces (               -- those that were used; the others are known by their MAC
  nonce bytea PRIMARY KEY,
  expires_at timestamptz NOT NULL
);
CREATE INDEX acme_nonces_expiry ON acme_nonces (expires_at);
