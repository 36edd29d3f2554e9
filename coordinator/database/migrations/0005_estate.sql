-- Agents that are retired, targets that change and are archived, issuers that are made.

ALTER TABLE agents ADD COLUMN retired_reason text NOT NULL DEFAULT '', ADD COLUMN revision integer NOT NULL DEFAULT 1;
CREATE INDEX agents_retired ON agents (retired_at DESC, id DESC) WHERE retired_at IS NOT NULL;
ALTER TABLE enrollment_tokens ADD COLUMN revoked_at timestamptz;

-- A target that is archived stays, since jobs name it; its name is free again.
ALTER TABLE targets ADD COLUMN enabled boolean NOT NULL DEFAULT true,
  ADD COLUMN sealed jsonb NOT NULL DEFAULT '{}',   -- field → what only its agent can open, base64 (RFC 9180)
  ADD COLUMN sealed_to bytea NOT NULL DEFAULT '',  -- the agent's key that it was sealed to
  ADD COLUMN archived_at timestamptz,
  ADD COLUMN archived_reason text NOT NULL DEFAULT '',
  ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE targets DROP CONSTRAINT targets_agent_id_name_key;
CREATE UNIQUE INDEX targets_name ON targets (agent_id, name) WHERE archived_at IS NULL;
CREATE INDEX targets_listing ON targets (created_at DESC, id DESC);

CREATE INDEX jobs_live_of_agent ON jobs (agent_id)
  WHERE state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA', 'Pending', 'Running');

ALTER TABLE issuers ADD COLUMN parent_issuer_id text REFERENCES issuers,
  ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX certificates_issuer ON certificates (issuer_id);
CREATE INDEX issuance_requests_issuer ON issuance_requests (issuer_id);
