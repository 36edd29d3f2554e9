-- Certificates that are ordered from authorities elsewhere.

ALTER TABLE issuers
  ADD COLUMN sealed_secrets bytea NOT NULL DEFAULT '',      -- JSON: secrets of its configuration by their paths
  ADD COLUMN secret_paths text[] NOT NULL DEFAULT '{}';

-- What another authority signs has no serial number, dates or key before it is there.
ALTER TABLE issuance_requests
  ALTER COLUMN issuer_ski DROP NOT NULL,
  ALTER COLUMN serial DROP NOT NULL,
  ALTER COLUMN not_before DROP NOT NULL,
  ALTER COLUMN not_after DROP NOT NULL;
ALTER TABLE issuance_requests DROP CONSTRAINT issuance_requests_state_check;
ALTER TABLE issuance_requests ADD CONSTRAINT issuance_requests_state_check
  CHECK (state IN ('waiting', 'signing', 'ordering', 'issued'));

-- Accounts at ACME authorities. A key is stored before the authority hears of it, so that none is lost in a crash.
CREATE TABLE issuer_accounts (
  id text PRIMARY KEY,
  issuer_id text NOT NULL REFERENCES issuers,
  directory_url text NOT NULL,
  state text NOT NULL CHECK (state IN ('current', 'next', 'former')),
  sealed_key bytea NOT NULL,
  url text NOT NULL DEFAULT '',        -- empty: the authority has not heard of it yet
  contact text NOT NULL DEFAULT '',
  blocked_until timestamptz,           -- the authority's limits are used up until then
  blocked_reason text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX issuer_accounts_one ON issuer_accounts (issuer_id, directory_url, state) WHERE state <> 'former';

CREATE TABLE ca_orders (
  id text PRIMARY KEY,
  request_id text NOT NULL UNIQUE REFERENCES issuance_requests,
  job_id text NOT NULL UNIQUE REFERENCES jobs,
  certificate_id text NOT NULL REFERENCES certificates,
  issuer_id text NOT NULL REFERENCES issuers,               -- who is asked: the certificate's own, or a fallback of it
  status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'issued', 'failed', 'abandoned')),
  state jsonb,                         -- what the connector keeps; null: nothing was ordered yet
  replaces text NOT NULL DEFAULT '',   -- RFC 9773 section 5
  epoch bigint NOT NULL DEFAULT 0,     -- grows when a coordinator takes it; the one before has no say any more
  held_by text NOT NULL DEFAULT '',    -- the coordinator that works on it
  held_until timestamptz NOT NULL DEFAULT '-infinity',
  next_at timestamptz NOT NULL DEFAULT now(),
  failures integer NOT NULL DEFAULT 0,
  problem text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);
CREATE INDEX ca_orders_next ON ca_orders (next_at) WHERE status = 'open';
CREATE INDEX ca_orders_listing ON ca_orders (created_at DESC, id DESC);
CREATE INDEX ca_orders_certificate ON ca_orders (certificate_id, created_at DESC);
CREATE INDEX ca_orders_issuer ON ca_orders (issuer_id);

-- An answer to a challenge: shown by an agent, or in the DNS by the coordinator (agent_id null).
CREATE TABLE ca_challenges (
  id text PRIMARY KEY,
  order_id text NOT NULL REFERENCES ca_orders,
  agent_id text REFERENCES agents,
  url text NOT NULL,
  challenge jsonb NOT NULL,            -- as the connector has it
  state text NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'shown', 'failed', 'over', 'gone')),
  boot text NOT NULL DEFAULT '',       -- the agent's process that it was offered to last
  offered_at timestamptz,
  shown_at timestamptz,
  shown_where text NOT NULL DEFAULT '',
  problem text NOT NULL DEFAULT '',    -- why it was not shown, or why the authority did not believe it
  verdict jsonb,                       -- the authority's own words: its challenge as it was last seen
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX ca_challenges_one ON ca_challenges (order_id, url, coalesce(agent_id, ''));
CREATE INDEX ca_challenges_agent ON ca_challenges (agent_id) WHERE state IN ('wanted', 'shown', 'over');

-- Revocations that the authority has to be told of.
CREATE TABLE ca_revocations (
  version_id text PRIMARY KEY REFERENCES certificate_versions,
  issuer_id text NOT NULL REFERENCES issuers,
  reason text NOT NULL,
  next_at timestamptz NOT NULL DEFAULT now(),
  failures integer NOT NULL DEFAULT 0,
  problem text NOT NULL DEFAULT '',
  done_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ca_revocations_next ON ca_revocations (next_at) WHERE done_at IS NULL;
CREATE INDEX ca_revocations_issuer ON ca_revocations (issuer_id);

-- When an authority wants a holder's version renewed (RFC 9773). It counts more than the policy's own time.
CREATE TABLE ca_renewals (
  certificate_id text NOT NULL REFERENCES certificates,
  agent_id text NOT NULL REFERENCES agents,
  version_id text NOT NULL REFERENCES certificate_versions,
  issuer_id text NOT NULL REFERENCES issuers,
  window_start timestamptz,            -- null: not asked yet, or the authority has none
  window_end timestamptz,
  renew_at timestamptz,                -- a moment of the window, chosen once for each window
  explanation_url text NOT NULL DEFAULT '',
  problem text NOT NULL DEFAULT '',
  check_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (certificate_id, agent_id)
);
CREATE INDEX ca_renewals_check ON ca_renewals (check_at);
CREATE INDEX ca_renewals_issuer ON ca_renewals (issuer_id);

UPDATE issuers SET secret_paths = '{key}' WHERE config ? 'certificate_chain';
