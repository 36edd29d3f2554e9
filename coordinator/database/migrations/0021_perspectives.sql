-- Looks of agents at challenges of ACME clients, from where each of them stands: those of a challenge's last round.

CREATE TABLE acme_looks (
  id text PRIMARY KEY,
  authorization_id text NOT NULL REFERENCES acme_authorizations ON DELETE CASCADE,
  agent_id text NOT NULL REFERENCES agents,
  item jsonb NOT NULL,                 -- what is looked at, as the agent is told it
  boot text NOT NULL DEFAULT '',       -- the agent's process that it was offered to last
  offered_at timestamptz,
  report jsonb,                        -- what the agent saw; null: it has not told yet
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX acme_looks_waiting ON acme_looks (agent_id) WHERE report IS NULL;
CREATE INDEX acme_looks_authorization ON acme_looks (authorization_id);
