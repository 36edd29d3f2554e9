-- What agents find when they look again at what they installed, and whether that is repaired.

ALTER TABLE bindings ADD COLUMN drift text NOT NULL DEFAULT ''
  CHECK (drift IN ('', 'changed', 'missing', 'served differs'));
ALTER TABLE bindings ADD COLUMN drift_since timestamptz;
CREATE INDEX bindings_drifted ON bindings (target_id) INCLUDE (certificate_id) WHERE drift <> '';

ALTER TABLE renewal_policies ADD COLUMN on_drift text NOT NULL DEFAULT 'repair' CHECK (on_drift IN ('repair', 'report'));
