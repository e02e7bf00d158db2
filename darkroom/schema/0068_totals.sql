-- Totals that never go down, for metrics: however long the audit log is, whatever the operator prunes of it, and whatever
-- images are purged. What happens appends a row of 1, so that no two transactions wait for each other; the collection
-- puts together the rows of what was committed (audit.sum_up). The sum of the rows is right at any time.

CREATE TABLE totals (
    project_id uuid NOT NULL REFERENCES projects,
    counter text NOT NULL CHECK (counter IN ('operations', 'failures')),
    labels text[] NOT NULL,                             -- operation and outcome; the code of a killed image's reason
    n bigint NOT NULL
);

CREATE FUNCTION count_failure() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
BEGIN
    INSERT INTO totals VALUES (NEW.project_id, 'failures', ARRAY[coalesce(NEW.failure->>'code', '')], 1);
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER UPDATE OF status ON images FOR EACH ROW
    WHEN (NEW.status = 'killed' AND OLD.status <> 'killed') EXECUTE FUNCTION count_failure();

CREATE FUNCTION count_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
BEGIN
    INSERT INTO totals VALUES (NEW.project_id, 'operations', ARRAY[NEW.operation, NEW.outcome], 1);
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER INSERT ON events FOR EACH ROW WHEN (NEW.project_id IS NOT NULL)
    EXECUTE FUNCTION count_event();

-- The triggers keep out whoever else writes until this is done, so that each event is counted once.
INSERT INTO totals SELECT project_id, 'operations', ARRAY[operation, outcome], count(*) FROM events
    WHERE project_id IS NOT NULL GROUP BY project_id, operation, outcome;
INSERT INTO totals SELECT project_id, 'failures', ARRAY[coalesce(failure->>'code', '')], count(*) FROM images
    WHERE status = 'killed' GROUP BY project_id, coalesce(failure->>'code', '');

ALTER TABLE totals ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON totals USING (project_id = (SELECT current_project()));
GRANT SELECT ON totals TO darkroom_project;
