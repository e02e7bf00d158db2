-- Projects, images and where their chunks are. Every table with a project's data has row-level security: a
-- connection acts under the role of one project and sees its rows alone; the owner of the schema is the operator.

CREATE TABLE projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,                          -- what people call it
    role_name text NOT NULL UNIQUE,                     -- the database role that acts for it
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION current_project() RETURNS uuid LANGUAGE sql STABLE
    RETURN (SELECT id FROM projects WHERE role_name = current_user);

CREATE TABLE scopes (                                   -- where chunks deduplicate, and nowhere else
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),  -- its name in the store
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    key_name text,                                      -- the KEK of an encrypted scope; null: plain
    wrapped_secret bytea,                               -- the secret that keys the digests, wrapped by the KEK
    CHECK ((key_name IS NULL) = (wrapped_secret IS NULL)),
    UNIQUE NULLS NOT DISTINCT (project_id, key_name)
);

CREATE TABLE images (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    name text NOT NULL,                                 -- unique in the project while the image is not final
    status text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'saving', 'active', 'killed', 'deactivated', 'deleted')),
    type text NOT NULL CHECK (type IN ('system', 'data')),
    description text NOT NULL DEFAULT '',
    key_name text,                                      -- the KEK that wraps the data key; null: plain
    scope_id integer REFERENCES scopes,                 -- set before the first chunk is uploaded
    source text NOT NULL,                               -- where the bytes came from, without credentials
    source_identity text,                               -- what makes the source the same after a kill
    source_format text,                                 -- as declared, or detected where nothing was declared
    request jsonb NOT NULL,                             -- the request that made the image; it holds no secret
    properties jsonb NOT NULL DEFAULT '{}',             -- min_disk, min_ram, os_type, firmware and so on
    virtual_size bigint,                                -- guest-visible bytes
    allocated_size bigint,                              -- bytes in chunks that are not zero
    stored_size bigint,                                 -- bytes of those chunks in packs
    new_size bigint,                                    -- bytes of them that no earlier image had brought
    content_digest bytea,                               -- of the guest-visible bytes, whatever the format or key
    failure jsonb,                                      -- code and message of a killed image
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    active_at timestamptz
);
CREATE UNIQUE INDEX images_name ON images (project_id, name) WHERE status NOT IN ('killed', 'deleted');
CREATE INDEX images_listed ON images (project_id, created_at DESC, id);

CREATE TABLE tags (
    image_id uuid NOT NULL REFERENCES images ON DELETE CASCADE,
    key text NOT NULL,
    value text NOT NULL DEFAULT '',
    PRIMARY KEY (image_id, key)
);

CREATE TABLE wraps (                                    -- the data key of an image, wrapped for a project
    image_id uuid NOT NULL REFERENCES images ON DELETE CASCADE,
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    key_name text NOT NULL,                             -- the project's KEK that wraps it
    wrapped bytea NOT NULL,
    PRIMARY KEY (image_id, project_id)
);

CREATE TABLE disks (
    image_id uuid NOT NULL REFERENCES images ON DELETE CASCADE,
    number integer NOT NULL,                            -- 0 is the system disk
    virtual_size bigint NOT NULL,
    partitions jsonb NOT NULL DEFAULT '{}',             -- what the partition table shows
    manifest_digest bytea,                              -- of the manifest's table; an older manifest is refused
    PRIMARY KEY (image_id, number)
);

CREATE TABLE packs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE,                          -- its name in the store
    scope_id integer NOT NULL REFERENCES scopes,
    status text NOT NULL DEFAULT 'writing' CHECK (status IN ('writing', 'stored', 'dead')),
        -- writing: the object may be there or not; stored: it is; dead: unreferenced, about to be deleted
    size bigint,                                        -- of the object, in bytes
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE chunks (                                   -- the chunk index of each scope
    scope_id integer NOT NULL REFERENCES scopes,
    chunk_id bytea NOT NULL,
    pack_id bigint NOT NULL REFERENCES packs ON DELETE CASCADE,
    position integer NOT NULL,                          -- offset in the pack
    length integer NOT NULL,
    PRIMARY KEY (scope_id, chunk_id)
);
CREATE INDEX chunks_pack ON chunks (pack_id);

CREATE TABLE refs (                                     -- the packs that an image needs, or may need while it uploads
    image_id uuid NOT NULL REFERENCES images ON DELETE CASCADE,
    pack_id bigint NOT NULL REFERENCES packs,           -- no cascade: a referenced pack cannot go
    PRIMARY KEY (image_id, pack_id)
);
CREATE INDEX refs_pack ON refs (pack_id);

CREATE TABLE leases (                                   -- one for every image whose status is not final
    image_id uuid PRIMARY KEY REFERENCES images ON DELETE CASCADE,
    holder text NOT NULL,                               -- host, boot, process and its start time
    expires_at timestamptz NOT NULL,                    -- then another process may go on with the image
    reap_at timestamptz NOT NULL                        -- then the reaper kills the image
);

CREATE TABLE runs (                                     -- finished runs of chunks, for an upload to resume behind
    image_id uuid NOT NULL REFERENCES images ON DELETE CASCADE,
    disk integer NOT NULL,
    first_chunk bigint NOT NULL,
    chunk_count bigint NOT NULL,
    new_size bigint NOT NULL,                           -- bytes that this run added to the store
    record bytea NOT NULL,                              -- its chunk references; sealed if the image is encrypted
    PRIMARY KEY (image_id, disk, first_chunk)
);

CREATE TABLE events (                                   -- the audit log; a project appends, the operator alone prunes
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    actor text NOT NULL DEFAULT current_user,
    operation text NOT NULL,
    image_id uuid,                                      -- no foreign key: the log outlives the image
    outcome text NOT NULL CHECK (outcome IN ('started', 'done', 'refused', 'failed')),
    reason text NOT NULL DEFAULT ''
);
CREATE INDEX events_image ON events (image_id);

-- A table with its own project_id compares it; the others ask whether the row they belong to is visible.
ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON projects USING (role_name = current_user);
ALTER TABLE scopes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON scopes USING (project_id = (SELECT current_project()));
ALTER TABLE images ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON images USING (project_id = (SELECT current_project()));
ALTER TABLE wraps ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON wraps USING (project_id = (SELECT current_project()));
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON events USING (project_id = (SELECT current_project()));
ALTER TABLE tags ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tags USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
ALTER TABLE disks ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON disks USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
ALTER TABLE refs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON refs USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
ALTER TABLE leases ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON leases USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
ALTER TABLE runs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON runs USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
ALTER TABLE packs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON packs USING (EXISTS (SELECT FROM scopes WHERE scopes.id = scope_id));
ALTER TABLE chunks ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON chunks USING (EXISTS (SELECT FROM scopes WHERE scopes.id = scope_id));

-- Every project's role is a member of this one, which holds what projects may do at all.
DO $$ BEGIN
    CREATE ROLE darkroom_project NOLOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;              -- another database of this cluster made it
END $$;
GRANT USAGE ON SCHEMA darkroom TO darkroom_project;
GRANT SELECT ON projects, scopes, images, tags, wraps, disks, packs, chunks, refs, leases, runs, events
    TO darkroom_project;
GRANT INSERT ON scopes, images, tags, wraps, disks, packs, chunks, refs, leases, runs TO darkroom_project;
GRANT INSERT (operation, image_id, outcome, reason) ON events TO darkroom_project;
GRANT UPDATE ON images, disks, packs, leases TO darkroom_project;
GRANT DELETE ON tags, wraps, refs, leases, runs TO darkroom_project;
