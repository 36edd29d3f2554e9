-- Who may do what: API keys with an owner, a scope, a last use and a value that is replaced without a gap.
ALTER TABLE api_keys
  ADD COLUMN description text NOT NULL DEFAULT '',
  ADD COLUMN owner_id text REFERENCES owners ON DELETE SET NULL, -- one that owns a usable key is not removed
  ADD COLUMN teams text[],             -- null: any; every one is there, or the key cannot be changed to name it
  ADD COLUMN environments text[],      -- null: any
  ADD COLUMN previous_lookup bytea,    -- of the value before the last rotation, which works …
  ADD COLUMN previous_digest bytea,
  ADD COLUMN previous_until timestamptz, -- … until then
  ADD COLUMN rotated_at timestamptz,
  ADD COLUMN last_used_at timestamptz, -- stored in batches, some seconds late
  ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX api_keys_previous ON api_keys (previous_lookup) WHERE previous_lookup IS NOT NULL;
CREATE INDEX api_keys_owner ON api_keys (owner_id);

-- People who sign in at an identity provider, and what they may do until they sign in again.
CREATE TABLE people (
  id text PRIMARY KEY,
  issuer text NOT NULL,
  subject text NOT NULL,               -- the provider's own name for somebody, which is never given to another
  name text NOT NULL DEFAULT '',
  email text NOT NULL DEFAULT '',
  role text NOT NULL,                  -- as of the last login
  teams text[],                        -- null: any
  last_login_at timestamptz NOT NULL DEFAULT now(),
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (issuer, subject)
);

CREATE TABLE sessions (                -- one that has ended is not kept; the audit trail has its beginning and its end
  id text PRIMARY KEY,
  person_id text NOT NULL REFERENCES people,
  lookup bytea NOT NULL,               -- the first bytes of the digest: finds the row, decides nothing
  digest bytea NOT NULL,               -- compared in constant time
  role text NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'auditor', 'admin')),
  teams text[],                        -- null: any
  environments text[],                 -- null: any
  sealed_id_token bytea,               -- tells the provider whom to sign out
  user_agent text NOT NULL DEFAULT '',
  last_seen_at timestamptz NOT NULL DEFAULT now(), -- stored in batches, some seconds late
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sessions_lookup ON sessions (lookup);
CREATE INDEX sessions_person ON sessions (person_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE oidc_states (             -- logins that came back; each does so once
  digest bytea PRIMARY KEY,
  expires_at timestamptz NOT NULL
);
CREATE INDEX oidc_states_expiry ON oidc_states (expires_at);
