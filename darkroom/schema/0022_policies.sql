-- What a project wants done with its images as they age; `darkroom policy` sets it, a scheduled flow does it.

CREATE TABLE policies (
    project_id uuid PRIMARY KEY DEFAULT current_project() REFERENCES projects,
    deprecate_after integer NOT NULL DEFAULT 0 CHECK (deprecate_after >= 0),  -- days; 0: never
    delete_after integer NOT NULL DEFAULT 0 CHECK (delete_after >= 0),        -- days; 0: never
    keep_last integer NOT NULL DEFAULT 0 CHECK (keep_last >= 0),              -- of a family; 0: all of them
    check_minutes integer NOT NULL DEFAULT 0 CHECK (check_minutes >= 0),      -- for checks in each run; 0: none
    updated_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE policies ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON policies USING (project_id = (SELECT current_project()));
GRANT SELECT, INSERT, UPDATE ON policies TO darkroom_project;
