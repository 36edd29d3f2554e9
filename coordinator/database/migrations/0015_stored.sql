-- A target that names no probe: what was read back there is known, what is served is not.

ALTER TABLE bindings ADD COLUMN stored_version_id text REFERENCES certificate_versions;
