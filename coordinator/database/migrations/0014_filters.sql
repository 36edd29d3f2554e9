-- Lists with two filters, at a million certificates.

-- Team and environment are filters that go together, and what a caller's scope is made of: they are counted from the
-- index alone. That works while pages are known to be visible to all, which is what vacuum finds out.
DROP INDEX certificates_team;
CREATE INDEX certificates_team ON certificates (team_id, archived, created_at DESC, id DESC) INCLUDE (environment);
ALTER TABLE certificates SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02);

-- certificates_policy begins with the same column.
DROP INDEX certificates_renewal_policy;
