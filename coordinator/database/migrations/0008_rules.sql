-- Profiles are replaced and merged like everything that people make; what else they rule.
ALTER TABLE profiles
  ADD COLUMN allowed_issuer_ids text[] NOT NULL DEFAULT '{}',  -- none allows every issuer
  ADD COLUMN required_names text[] NOT NULL DEFAULT '{}',      -- patterns, each of which some name has to match
  ADD COLUMN spiffe_uri_pattern text NOT NULL DEFAULT '',      -- which SPIFFE ID may stand among the names
  ADD COLUMN must_staple boolean NOT NULL DEFAULT false,
  ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX certificates_profile ON certificates (profile_id, id);

-- Agents by what they say of themselves, and by name. Nothing of this is proof of anything.
CREATE TABLE agent_groups (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  description text NOT NULL DEFAULT '',
  match_os text NOT NULL DEFAULT '',           -- empty: any; a group that matches nothing has its list only
  match_architecture text NOT NULL DEFAULT '',
  match_ip_cidr text NOT NULL DEFAULT '',
  match_version text NOT NULL DEFAULT '',      -- e.g. >=1.2,<2
  version_min bigint[],                        -- what that means: from here on …
  version_below bigint[],                      -- … and below this
  revision integer NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE agent_group_members (
  group_id text NOT NULL REFERENCES agent_groups ON DELETE CASCADE,
  agent_id text NOT NULL REFERENCES agents,
  membership text NOT NULL CHECK (membership IN ('include', 'exclude')),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (group_id, agent_id)
);
CREATE INDEX agent_group_members_agent ON agent_group_members (agent_id);

-- The leading numbers of a version, always four of them; null for what has none.
CREATE FUNCTION version_key(version text) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
  SELECT (numbers || '{0,0,0}')[1:4]
  FROM (SELECT string_to_array(substring(version FROM '^v?(\d{1,9}(?:\.\d{1,9}){0,3})(?![\d.])'), '.')::bigint[]) AS read (numbers)
  WHERE numbers IS NOT NULL
$$;

CREATE FUNCTION address_key(address text) RETURNS inet LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN address::inet;
EXCEPTION WHEN invalid_text_representation THEN
  RETURN NULL;
END $$;

CREATE VIEW group_agents AS
  SELECT agent_groups.id AS group_id, agents.id AS agent_id, coalesce(membership, 'matched') AS membership
  FROM agent_groups CROSS JOIN agents
  LEFT JOIN agent_group_members AS members ON members.group_id = agent_groups.id AND members.agent_id = agents.id
  WHERE retired_at IS NULL AND CASE membership WHEN 'include' THEN true WHEN 'exclude' THEN false ELSE
    concat(match_os, match_architecture, match_ip_cidr, match_version) <> ''
    AND (match_os = '' OR lower(os) = lower(match_os))
    AND (match_architecture = '' OR lower(architecture) = lower(match_architecture))
    AND (match_ip_cidr = '' OR address_key(address) <<= nullif(match_ip_cidr, '')::cidr)
    AND (match_version = '' OR version_key(version) IS NOT NULL
      AND (version_min IS NULL OR version_key(version) >= version_min)
      AND (version_below IS NULL OR version_key(version) < version_below))
  END;

ALTER TABLE renewal_policies
  ADD COLUMN description text NOT NULL DEFAULT '',
  ADD COLUMN max_retries integer NOT NULL DEFAULT 10,
  ADD COLUMN retry_interval_s integer NOT NULL DEFAULT 2,
  ADD COLUMN alert_thresholds_days integer[] NOT NULL DEFAULT '{30,14,7,0}',
  ADD COLUMN alert_channels jsonb NOT NULL DEFAULT '{}',      -- {severity: [channel, …]}
  ADD COLUMN alert_severity_map jsonb NOT NULL DEFAULT '{}',  -- {days: severity}
  ADD COLUMN agent_group_id text REFERENCES agent_groups,     -- renews by itself only on agents of this group
  ADD COLUMN revision integer NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX renewal_policies_group ON renewal_policies (agent_group_id);
CREATE INDEX certificates_renewal_policy ON certificates (renewal_policy_id, id);

-- Whose renewal times have to be computed anew, and how far that has come.
CREATE TABLE renewal_replans (
  scope text NOT NULL CHECK (scope IN ('policy', 'agent')),
  id text NOT NULL,
  after_id text NOT NULL DEFAULT '',           -- certificates up to here are done
  PRIMARY KEY (scope, id)
);

-- Rules that certificates are held against, and where they are broken.
CREATE TABLE policies (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE,
  description text NOT NULL DEFAULT '',
  type text NOT NULL,
  config jsonb NOT NULL DEFAULT '{}',          -- of the type's own form
  severity text NOT NULL DEFAULT 'warning' CHECK (severity IN ('warning', 'error', 'critical')),
  enforce text NOT NULL DEFAULT 'warn' CHECK (enforce IN ('warn', 'block')),
  enabled boolean NOT NULL DEFAULT true,
  revision integer NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE policy_violations (
  id text PRIMARY KEY,
  rule_id text NOT NULL REFERENCES policies ON DELETE CASCADE,
  certificate_id text NOT NULL REFERENCES certificates ON DELETE CASCADE,
  severity text NOT NULL,
  field text NOT NULL,
  message text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  closed_at timestamptz                        -- null while it is so
);
CREATE UNIQUE INDEX policy_violations_open ON policy_violations (rule_id, certificate_id) WHERE closed_at IS NULL;
CREATE INDEX policy_violations_listing ON policy_violations (created_at DESC, id DESC);
CREATE INDEX policy_violations_certificate ON policy_violations (certificate_id);
CREATE INDEX policy_violations_rule ON policy_violations (rule_id, created_at DESC);

-- Which rules existing certificates have to be held against, and how far that has come.
CREATE TABLE policy_scans (
  rule_id text PRIMARY KEY REFERENCES policies ON DELETE CASCADE,
  after_id text NOT NULL DEFAULT ''            -- certificates up to here are done
);
