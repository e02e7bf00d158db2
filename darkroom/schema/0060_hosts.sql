-- Whose domains a host may give away, and who gets its last memory.

-- The projects that may capture domains of a host which Darkroom did not make: none but those that the operator names.
CREATE TABLE open_hosts (
    host text NOT NULL REFERENCES hosts ON DELETE CASCADE,
    project_id uuid NOT NULL REFERENCES projects,
    PRIMARY KEY (host, project_id)
);
ALTER TABLE open_hosts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON open_hosts FOR SELECT USING (project_id = (SELECT current_project()));
GRANT SELECT ON open_hosts TO darkroom_project;

-- It locks the host's row until the transaction ends, and sees what was committed until then: the memory is reserved.
-- The lock lets rows of servers and disks refer to the host meanwhile.
CREATE OR REPLACE FUNCTION memory_taken(host_name text) RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = darkroom
    BEGIN ATOMIC
        SELECT name FROM hosts WHERE name = host_name FOR NO KEY UPDATE;
        SELECT coalesce(sum(memory), 0) FROM servers WHERE host = host_name;
    END;
