-- Who acts, what a project may do at most, and the operator's role. 0001 let a project name another's pack by its number
-- in `refs` and `chunks`, and choose the id of an image, which tells whether an image of that id exists.

-- The role that acts, the same within functions that run with their owner's rights (current_user is the owner there):
-- the one taken by SET ROLE, which the server allows to the members of a role alone, else the one that logged in.
CREATE FUNCTION acting_role() RETURNS name LANGUAGE sql STABLE
    RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;
CREATE OR REPLACE FUNCTION current_project() RETURNS uuid LANGUAGE sql STABLE
    RETURN (SELECT id FROM projects WHERE role_name = acting_role());

-- The operator collects, reaps, reports and prunes; it can neither change the schema nor make roles.
DO $$ BEGIN
    CREATE ROLE darkroom_operator NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this cluster made it
END $$;
GRANT USAGE ON SCHEMA darkroom TO darkroom_operator;
GRANT SELECT ON migrations TO darkroom_project, darkroom_operator;
CREATE FUNCTION is_operator() RETURNS boolean LANGUAGE sql STABLE
    RETURN pg_has_role(acting_role(), 'darkroom_operator', 'USAGE')
        OR pg_has_role(acting_role(), (SELECT nspowner FROM pg_namespace WHERE nspname = 'darkroom'), 'USAGE');

-- Run behind the migrations, for what holds for tables and columns of every migration.
CREATE FUNCTION settle_rights() RETURNS void LANGUAGE plpgsql SET search_path = darkroom, pg_temp AS $$
DECLARE
    found text;
    given text;
    changed text;
BEGIN
    FOR found IN
        SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'darkroom'::regnamespace AND relrowsecurity
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO darkroom_operator', found);
        EXECUTE format('DROP POLICY IF EXISTS operator ON %I', found);
        EXECUTE format('CREATE POLICY operator ON %I TO darkroom_operator USING (true)', found);
    END LOOP;
    -- A project neither chooses the id of an image nor changes what an image is by.
    SELECT string_agg(quote_ident(attname), ', ') FILTER (WHERE attname <> 'id'),
        string_agg(quote_ident(attname), ', ') FILTER (WHERE attname NOT IN ('id', 'project_id', 'created_at'))
        INTO given, changed
        FROM pg_attribute WHERE attrelid = 'images'::regclass AND attnum > 0 AND NOT attisdropped;
    REVOKE INSERT, UPDATE ON images FROM darkroom_project;
    EXECUTE format('GRANT INSERT (%s), UPDATE (%s) ON images TO darkroom_project', given, changed);
END $$;
REVOKE EXECUTE ON FUNCTION settle_rights FROM PUBLIC;

REVOKE UPDATE ON packs FROM darkroom_project;
GRANT UPDATE (status, size) ON packs TO darkroom_project;

-- What belongs to an image can be changed by its owner alone, who is not everybody that sees it (0011).
CREATE FUNCTION owns(image uuid) RETURNS boolean LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM images WHERE id = image AND project_id = (SELECT current_project()));

DROP POLICY own ON images;
CREATE POLICY own ON images USING (project_id = (SELECT current_project()))
    WITH CHECK (project_id = (SELECT current_project())
        AND (scope_id IS NULL OR EXISTS (SELECT FROM scopes WHERE scopes.id = scope_id)));
DROP POLICY own ON tags;
CREATE POLICY own ON tags USING (owns(image_id));
DROP POLICY own ON disks;
CREATE POLICY own ON disks USING (owns(image_id));
DROP POLICY own ON leases;
CREATE POLICY own ON leases USING (owns(image_id));
DROP POLICY own ON runs;
CREATE POLICY own ON runs USING (owns(image_id));
DROP POLICY own ON refs;
CREATE POLICY own ON refs USING (owns(image_id))
    WITH CHECK (owns(image_id) AND EXISTS (SELECT FROM packs WHERE packs.id = pack_id));
DROP POLICY own ON chunks;
CREATE POLICY own ON chunks USING (EXISTS (SELECT FROM scopes WHERE scopes.id = scope_id))
    WITH CHECK (EXISTS (SELECT FROM packs WHERE packs.id = pack_id AND packs.scope_id = chunks.scope_id));
DROP POLICY own ON wraps;
CREATE POLICY own ON wraps USING (project_id = (SELECT current_project()))
    WITH CHECK (project_id = (SELECT current_project()) AND EXISTS (SELECT FROM images WHERE images.id = image_id));
