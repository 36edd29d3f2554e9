-- Two-person approval in the issuance gate, and notifications.
ALTER TABLE profiles
  ADD COLUMN requires_approval boolean NOT NULL DEFAULT false,
  ADD COLUMN approvals_required integer NOT NULL DEFAULT 1 CHECK (approvals_required >= 1),
  ADD COLUMN approve_renewals boolean NOT NULL DEFAULT true,  -- false: what was approved once is renewed without asking
  ADD COLUMN approver_owner_ids text[] NOT NULL DEFAULT '{}'; -- whose votes count; none: those of every approver

ALTER TABLE holders
  ADD COLUMN asked_by text[] NOT NULL DEFAULT '{}',  -- who asked since the last version: key:…, person:…; none: certctl
  ADD COLUMN declined_at timestamptz;  -- an approval was refused or ran out: nothing more until somebody asks again

CREATE TABLE approvals (
  id text PRIMARY KEY,
  job_id text NOT NULL UNIQUE REFERENCES jobs,
  certificate_id text NOT NULL REFERENCES certificates,
  agent_id text NOT NULL REFERENCES agents,
  profile_id text NOT NULL REFERENCES profiles,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
  requested_by text[] NOT NULL,        -- actors; 'system' where nobody asked
  persons text[] NOT NULL,             -- who they are, in every way that is known: these may not vote
  required integer NOT NULL,
  approved integer NOT NULL DEFAULT 0,
  wanted jsonb NOT NULL,               -- what is asked for; exactly this is signed
  changes jsonb NOT NULL,              -- [{"field", "before", "after"}, …] against the last version
  reason text NOT NULL DEFAULT '',     -- why it ended otherwise than approved
  expires_at timestamptz NOT NULL,
  decided_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((state = 'pending') = (decided_at IS NULL)),
  CHECK (state <> 'approved' OR approved >= required)
);
CREATE INDEX approvals_listing ON approvals (created_at DESC, id DESC);
CREATE INDEX approvals_state ON approvals (state, created_at DESC, id DESC);
CREATE INDEX approvals_certificate ON approvals (certificate_id, created_at DESC, id DESC);
CREATE INDEX approvals_requester ON approvals USING gin (requested_by);
CREATE INDEX approvals_expiry ON approvals (expires_at) WHERE state = 'pending';
CREATE INDEX approvals_profile ON approvals (profile_id);

CREATE TABLE approval_votes (
  approval_id text NOT NULL REFERENCES approvals,
  voter text NOT NULL,
  name text NOT NULL,
  persons text[] NOT NULL,
  vote text NOT NULL CHECK (vote IN ('approve', 'reject')),
  note text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (approval_id, voter)
);

-- A request that waits for approval has its serial number already; dates and CA key are set anew when it is released.
ALTER TABLE issuance_requests DROP CONSTRAINT issuance_requests_state_check;
ALTER TABLE issuance_requests ADD CONSTRAINT issuance_requests_state_check
  CHECK (state IN ('waiting', 'signing', 'issued'));
ALTER TABLE issuance_requests ADD COLUMN approved jsonb;  -- what was approved; null where no approval was needed

-- Whatever code may do: no job gets past its approval, and none that ends leaves one open.
CREATE FUNCTION approval_of_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state IN ('AwaitingCA', 'Completed') THEN
    IF NOT EXISTS (SELECT FROM approvals WHERE job_id = NEW.id AND state = 'approved') THEN
      RAISE EXCEPTION 'job % has not been approved', NEW.id;
    END IF;
  ELSE
    UPDATE approvals SET state = 'cancelled', decided_at = now(), reason = coalesce(NEW.failure->>'cause', 'it has ended')
    WHERE job_id = NEW.id AND state = 'pending';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_approval AFTER UPDATE OF state ON jobs
  FOR EACH ROW WHEN (OLD.state = 'AwaitingApproval' AND NEW.state <> OLD.state) EXECUTE FUNCTION approval_of_job();

-- What people are told. One row for each channel; the key lets the same thing be told once there.
CREATE TABLE notifications (
  id text PRIMARY KEY,                 -- goes out with the message, so that a receiver knows a repetition
  key text NOT NULL,
  type text NOT NULL,
  severity text NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
  certificate_id text REFERENCES certificates ON DELETE CASCADE,
  channel text NOT NULL,
  recipient text NOT NULL DEFAULT '',  -- an address, where the channel has such
  subject text NOT NULL,
  message text NOT NULL,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'failed', 'sent', 'dead')),
  retry_count integer NOT NULL DEFAULT 0,
  next_retry_at timestamptz DEFAULT now(),  -- null: not tried any more
  last_error text NOT NULL DEFAULT '',
  sent_at timestamptz,
  read_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((status IN ('pending', 'failed')) = (next_retry_at IS NOT NULL)),
  UNIQUE (key, channel, recipient)
);
CREATE INDEX notifications_due ON notifications (channel, next_retry_at) WHERE next_retry_at IS NOT NULL;
CREATE INDEX notifications_listing ON notifications (created_at DESC, id DESC);
CREATE INDEX notifications_status ON notifications (status, created_at DESC, id DESC);
CREATE INDEX notifications_type ON notifications (type, created_at DESC, id DESC);
CREATE INDEX notifications_unread ON notifications (created_at DESC, id DESC) WHERE read_at IS NULL;
CREATE INDEX notifications_certificate ON notifications (certificate_id, created_at DESC, id DESC);

-- Up to which moment ends of certificates were looked at.
CREATE TABLE alerts_watch (
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  looked_until timestamptz NOT NULL
);
CREATE INDEX certificate_versions_end ON certificate_versions (not_after);
CREATE INDEX owners_email ON owners (lower(email)) WHERE email <> '';
CREATE INDEX issuance_requests_open ON issuance_requests (spki_sha256) WHERE state IN ('waiting', 'signing');

CREATE TABLE notification_channels (   -- that have settings, as of the last start of a coordinator
  name text PRIMARY KEY,
  recipients text[] NOT NULL           -- who is written to where a certificate's owner has no address
);
