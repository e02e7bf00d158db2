-- What people decide about an image after it was made, and the orders in which images are listed.

ALTER TABLE images
    ADD COLUMN version bigint NOT NULL DEFAULT 1,       -- one more with every change since it became active
    ADD COLUMN protected boolean NOT NULL DEFAULT false,  -- it cannot be deleted, neither by hand nor by policy
    ADD COLUMN family text,                             -- a name that means the newest usable image of those that have it
    ADD COLUMN deprecated_at timestamptz,               -- since when it should not be used for anything new
    ADD COLUMN replaced_by uuid,                        -- what to use instead; no foreign key: it may be gone
    ADD COLUMN checked_at timestamptz;                  -- when a check last found all of its data well

-- Whoever changes an image, and from whichever program: two editors cannot overwrite each other unseen.
CREATE FUNCTION count_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER images_version BEFORE UPDATE ON images FOR EACH ROW
    WHEN (OLD.status NOT IN ('queued', 'saving') AND (OLD.name, OLD.description, OLD.properties, OLD.protected, OLD.family, OLD.deprecated_at, OLD.replaced_by,
        OLD.status, OLD.key_name) IS DISTINCT FROM (NEW.name, NEW.description, NEW.properties, NEW.protected, NEW.family,
        NEW.deprecated_at, NEW.replaced_by, NEW.status, NEW.key_name))
    EXECUTE FUNCTION count_version();

-- A page is a range of one of these, however deep. They are read forwards or backwards, so all columns go one way.
DROP INDEX images_listed;
CREATE INDEX images_by_created ON images (project_id, created_at, id) WHERE status <> 'deleted';
CREATE INDEX images_by_name ON images (project_id, name COLLATE "C", id) WHERE status <> 'deleted';
CREATE INDEX images_by_size ON images (project_id, coalesce(stored_size, 0), id) WHERE status <> 'deleted';
CREATE INDEX images_by_status ON images (project_id, status, created_at, id);
CREATE INDEX images_by_family ON images (project_id, family, active_at) WHERE family IS NOT NULL;
CREATE INDEX tags_found ON tags (key, value, image_id);
