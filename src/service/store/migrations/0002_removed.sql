-- When the instances and structure sets of a series were removed for their age or the disk's sake.
ALTER TABLE series ADD COLUMN removed_ms BIGINT;
