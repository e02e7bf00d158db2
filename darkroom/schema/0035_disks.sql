-- Images that are made in other ways than by an import, and of several disks.

ALTER TABLE images ADD COLUMN operation text NOT NULL DEFAULT 'import';  -- what made it: import, capture and so on
ALTER TABLE images DROP CONSTRAINT images_type_check;
ALTER TABLE images ADD CONSTRAINT images_type_check
    CHECK (type IN ('system', 'data', 'full'));         -- full: a whole server, of which disk 0 is the system disk
