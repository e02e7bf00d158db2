-- Sharing. A member that accepted sees the row, the tags and the disks of an image while it is active, and reads it;
-- a pending or rejected one sees that it was asked, and to everybody else the image does not exist.
-- Functions here run with their owner's rights, so that policies do not ask each other in circles; each answers only
-- about the project that acts.

CREATE TABLE inboxes (                                  -- where a project receives data keys: an X25519 key pair
    project_id uuid PRIMARY KEY DEFAULT current_project() REFERENCES projects,
    key_name text NOT NULL,                             -- the project's KEK that wraps the private key
    public_key bytea NOT NULL,
    wrapped bytea NOT NULL                              -- the private key
);

CREATE TABLE members (                                  -- the projects that an image is shared with
    image_id uuid NOT NULL REFERENCES images ON DELETE CASCADE,
    project_id uuid NOT NULL REFERENCES projects,       -- the member
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'rejected')),
    sealed bytea,                                       -- the data key, sealed to the member's inbox; null: plain, or opened
    created_at timestamptz NOT NULL DEFAULT now(),
    answered_at timestamptz,
    PRIMARY KEY (image_id, project_id)
);
CREATE INDEX members_project ON members (project_id, status);

CREATE TABLE trusts (                                   -- owners whose shares a project accepts without being asked
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    owner_id uuid NOT NULL REFERENCES projects,
    PRIMARY KEY (project_id, owner_id)
);

CREATE FUNCTION shared_images() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT coalesce(array_agg(image_id), '{}') FROM members
            WHERE project_id = current_project() AND status = 'accepted';
    END;

-- The project that a name names, for whoever wants to share with it, and the public key of its inbox.
CREATE FUNCTION recipient(wanted text) RETURNS TABLE (id uuid, public_key bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT p.id, i.public_key FROM projects p LEFT JOIN inboxes i ON i.project_id = p.id WHERE p.name = wanted;
    END;

-- What others share with the project, and what a pending member is told of it.
CREATE FUNCTION incoming() RETURNS TABLE (image_id uuid, name text, owner_id uuid, owner text, status text, type text,
    virtual_size bigint, encrypted boolean, created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT i.id, i.name, i.project_id, p.name, m.status, i.type, i.virtual_size, i.key_name IS NOT NULL, m.created_at
            FROM members m JOIN images i ON i.id = m.image_id JOIN projects p ON p.id = i.project_id
            WHERE m.project_id = current_project() AND i.status = 'active';
    END;

-- With whom the project shares its images.
CREATE FUNCTION outgoing() RETURNS TABLE (image_id uuid, name text, member text, status text, created_at timestamptz,
    answered_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT i.id, i.name, p.name, m.status, m.created_at, m.answered_at
            FROM members m JOIN images i ON i.id = m.image_id JOIN projects p ON p.id = m.project_id
            WHERE i.project_id = current_project() AND i.status <> 'deleted';
    END;

-- The names of the owners that the project trusts.
CREATE FUNCTION trusted() RETURNS SETOF text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT p.name FROM trusts t JOIN projects p ON p.id = t.owner_id
            WHERE t.project_id = current_project() ORDER BY p.name;
    END;

-- Where a chunk of an image is by now, for whoever may read the image: only in packs that the image refers to, so that
-- nobody can ask what else the owner's scope holds.
CREATE FUNCTION locate(image uuid, chunk bytea) RETURNS TABLE (pack uuid, "position" integer, length integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT p.uuid, c.position, c.length FROM images i
            JOIN chunks c ON c.scope_id = i.scope_id AND c.chunk_id = chunk
            JOIN packs p ON p.id = c.pack_id AND p.status = 'stored'
            JOIN refs r ON r.image_id = i.id AND r.pack_id = p.id
            WHERE i.id = image AND (i.project_id = current_project() OR is_operator()
                OR i.status = 'active' AND i.id = ANY (shared_images()));
    END;

REVOKE EXECUTE ON FUNCTION shared_images, recipient, incoming, outgoing, trusted, locate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION shared_images, recipient, incoming, outgoing, trusted, locate
    TO darkroom_project, darkroom_operator;

-- A new member: not the owner itself, and accepted at once where it trusts the owner.
CREATE FUNCTION admit_member() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = darkroom, pg_temp AS $$
BEGIN
    -- This runs before the policy refuses who is not the owner, and must tell such a one nothing of the image.
    IF NEW.project_id = current_project() THEN
        RAISE check_violation USING MESSAGE = 'an image is not shared with its owner';
    END IF;
    IF EXISTS (SELECT FROM trusts WHERE project_id = NEW.project_id AND owner_id = current_project()) THEN
        NEW.status := 'accepted';
        NEW.answered_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER admit BEFORE INSERT ON members FOR EACH ROW EXECUTE FUNCTION admit_member();

-- Whoever is not an accepted member has no wrap of the data key; nobody can forget to delete it.
CREATE FUNCTION dismiss_member() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = darkroom, pg_temp AS $$
BEGIN
    DELETE FROM wraps WHERE image_id = OLD.image_id AND project_id = OLD.project_id;
    RETURN NULL;
END $$;
CREATE TRIGGER unshared AFTER DELETE ON members FOR EACH ROW EXECUTE FUNCTION dismiss_member();
CREATE TRIGGER rejected AFTER UPDATE OF status ON members FOR EACH ROW WHEN (NEW.status <> 'accepted')
    EXECUTE FUNCTION dismiss_member();

ALTER TABLE inboxes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON inboxes USING (project_id = (SELECT current_project()));
ALTER TABLE trusts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON trusts USING (project_id = (SELECT current_project()));
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON members FOR SELECT USING (owns(image_id));
CREATE POLICY share ON members FOR INSERT WITH CHECK (owns(image_id));
CREATE POLICY unshare ON members FOR DELETE USING (owns(image_id));
CREATE POLICY asked ON members FOR SELECT USING (project_id = (SELECT current_project()));
CREATE POLICY answer ON members FOR UPDATE USING (project_id = (SELECT current_project()));

CREATE POLICY shared ON images FOR SELECT USING (status = 'active' AND id = ANY ((SELECT shared_images())::uuid[]));
CREATE POLICY shared ON tags FOR SELECT USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
CREATE POLICY shared ON disks FOR SELECT USING (EXISTS (SELECT FROM images WHERE images.id = image_id));

GRANT SELECT, INSERT, UPDATE ON inboxes TO darkroom_project;
GRANT SELECT, INSERT, DELETE ON trusts TO darkroom_project;
GRANT SELECT, DELETE, INSERT (image_id, project_id, sealed), UPDATE (status, sealed, answered_at) ON members
    TO darkroom_project;
