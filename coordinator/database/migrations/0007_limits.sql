-- Token buckets that replicas share, where a limit protects trust. Full ones are removed. Not logged: what a crash of
-- the server loses is a few minutes of counting, and nothing here is worth a write to disk with every wrong key.

CREATE UNLOGGED TABLE limit_buckets (
  name text NOT NULL,
  subject text NOT NULL,
  full_at timestamptz NOT NULL,
  PRIMARY KEY (name, subject)
);
