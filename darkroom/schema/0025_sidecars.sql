-- What only the catalog knows of an image is written beside its manifest too, so that a lost catalog can be rebuilt.

ALTER TABLE disks ADD COLUMN manifest_mac bytea;        -- of manifest_digest, keyed from the data key; null: plain image
    -- At a rebuild it proves that the store returns the manifest that was written.

CREATE TABLE sidecars (                                 -- what was last written as an image's sidecar object
    image_id uuid PRIMARY KEY REFERENCES images ON DELETE CASCADE,
    digest bytea NOT NULL                               -- SHA-256 of the record; another one now: the object is behind
);
ALTER TABLE sidecars ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON sidecars USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
GRANT SELECT ON sidecars TO darkroom_project;

-- Who called a function that runs as the owner of the schema: the role that was set, or else the login.
CREATE FUNCTION caller() RETURNS name LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('role', true), 'none')::name, session_user);

-- The rows of an image as JSON: its own, and those of every table whose rows go with it, whichever project's they are.
-- Not its packs, which its manifests tell, nor what only an unfinished upload has.
CREATE FUNCTION image_record(image uuid) RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = darkroom AS $$
DECLARE
    found jsonb;
    belonging record;
    rows jsonb;
BEGIN
    SELECT jsonb_build_object('image', to_jsonb(i) - 'scope_id', 'project', p.name, 'scope', s.uuid) INTO found
        FROM images i JOIN projects p ON p.id = i.project_id LEFT JOIN scopes s ON s.id = i.scope_id WHERE i.id = image;
    FOR belonging IN
        SELECT c.conrelid::regclass::text AS name, a.attname AS id FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.confrelid = 'images'::regclass AND c.contype = 'f' AND c.confdeltype = 'c'
            AND c.conrelid::regclass::text NOT IN ('images', 'refs', 'leases', 'runs', 'sidecars')
        ORDER BY 1
    LOOP
        EXECUTE format('SELECT jsonb_agg(to_jsonb(t) ORDER BY to_jsonb(t)::text) FROM %I t WHERE %I = $1',
            belonging.name, belonging.id) INTO rows USING image;
        found := jsonb_insert(found, ARRAY[belonging.name], coalesce(rows, '[]'));
    END LOOP;
    RETURN found || jsonb_build_object('projects', (
        SELECT jsonb_object_agg(id, name) FROM projects
        WHERE id IN (SELECT (regexp_matches(found::text, '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}', 'g'))[1]::uuid)));
END $$;
REVOKE EXECUTE ON FUNCTION image_record FROM PUBLIC;

-- The record of an image, noted as written: to be called before its object is put, in the same transaction. Nobody else
-- writes it until that ends. It is told to the owner of the schema, and to projects that the record names.
CREATE FUNCTION sidecar(image uuid) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = darkroom AS $$
DECLARE
    found jsonb;
    asking uuid := (SELECT id FROM projects WHERE role_name = caller());
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('sidecar ' || image, 0));
    found := image_record(image);
    IF found IS NULL OR (asking IS NOT NULL AND NOT found->'projects' ? asking::text) THEN
        RETURN NULL;
    END IF;
    INSERT INTO sidecars VALUES (image, sha256(convert_to(found::text, 'UTF8')))
        ON CONFLICT (image_id) DO UPDATE SET digest = excluded.digest;
    RETURN found;
END $$;
REVOKE EXECUTE ON FUNCTION sidecar FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sidecar TO darkroom_project;
