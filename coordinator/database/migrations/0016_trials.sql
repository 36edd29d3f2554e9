-- A deployment tried out without changing anything: the last one of each target.

CREATE TABLE target_trials (
  target_id text PRIMARY KEY REFERENCES targets,
  id text NOT NULL UNIQUE,
  agent_id text NOT NULL REFERENCES agents,
  requested_at timestamptz NOT NULL DEFAULT now(),
  offered_to text NOT NULL DEFAULT '',
  offered_at timestamptz,
  finished_at timestamptz,
  steps jsonb NOT NULL DEFAULT '[]',
  failure jsonb
);
CREATE INDEX target_trials_waiting ON target_trials (agent_id) WHERE finished_at IS NULL;
