-- Keys get new versions by policy, too.

ALTER TABLE policies ADD COLUMN rotate_after integer NOT NULL DEFAULT 0
    CHECK (rotate_after >= 0);  -- days since the version of a key was made; 0: never
