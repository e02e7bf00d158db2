-- Quotas. What a project uses is counted from its rows, under a lock, whenever a row is about to add to it: an unfinished
-- image is its own reservation, so that there is no counter that a crash could leave wrong. The database does it, so
-- that no way of making an image can forget it. Over quota is error DK001, whose detail is quota, use and need.

CREATE TABLE quotas (                                   -- of a project; without a row, and where it is null: no limit
    project_id uuid PRIMARY KEY REFERENCES projects,
    images bigint,                                      -- that are neither killed nor deleted
    virtual_size bigint,                                -- of these images together, in bytes
    stored_size bigint,                                 -- of the project's packs, in bytes, and of what uploads may add
    operations bigint,                                  -- images that are being made at the same time
    members bigint                                      -- of one image; null: 256
);
ALTER TABLE quotas ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON quotas USING (project_id = (SELECT current_project()));
GRANT SELECT ON quotas TO darkroom_project;

ALTER TABLE images ADD COLUMN reserved_size bigint;     -- the most bytes that its upload stores; counts while unfinished
CREATE INDEX packs_scope ON packs (scope_id);

-- What a project uses of each quota, as far as the caller sees its rows.
CREATE FUNCTION usage(project uuid) RETURNS TABLE (images bigint, virtual_size bigint, stored_size bigint,
    operations bigint) LANGUAGE sql STABLE
    BEGIN ATOMIC
        SELECT
            (SELECT count(*) FROM images i WHERE i.project_id = project AND i.status NOT IN ('killed', 'deleted')),
            (SELECT coalesce(sum(i.virtual_size), 0)::bigint FROM images i
                WHERE i.project_id = project AND i.status NOT IN ('killed', 'deleted')),
            (SELECT coalesce(sum(p.size), 0)::bigint FROM packs p JOIN scopes s ON s.id = p.scope_id
                WHERE s.project_id = project AND p.status = 'stored')
            + (SELECT coalesce(sum(greatest(0, i.reserved_size
                    - (SELECT coalesce(sum(r.new_size), 0) FROM runs r WHERE r.image_id = i.id))), 0)::bigint
                FROM images i WHERE i.project_id = project AND i.status IN ('queued', 'saving')),
            (SELECT count(*) FROM leases l JOIN images i ON i.id = l.image_id
                WHERE i.project_id = project AND i.status IN ('queued', 'saving') AND l.expires_at > now());
    END;

CREATE FUNCTION keep_within(quota text, used bigint, need bigint, most bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    IF need > 0 AND used > most THEN
        RAISE EXCEPTION 'over quota: %', quota
            USING ERRCODE = 'DK001', DETAIL = format('%s %s %s %s', quota, most, used - need, need);
    END IF;
END $$;

-- Behind a change of an image: `used` has it already.
CREATE FUNCTION keep_image_quotas() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
DECLARE
    most quotas;
    used record;
    counted boolean := TG_OP = 'UPDATE' AND OLD.status NOT IN ('killed', 'deleted');  -- it was, before
BEGIN
    SELECT * INTO most FROM quotas WHERE project_id = NEW.project_id FOR UPDATE;
    IF NOT FOUND OR NEW.status IN ('killed', 'deleted') THEN
        RETURN NULL;
    END IF;
    SELECT * INTO used FROM usage(NEW.project_id);
    PERFORM keep_within('images', used.images, CASE WHEN counted THEN 0 ELSE 1 END, most.images);
    PERFORM keep_within('virtual_size', used.virtual_size, coalesce(NEW.virtual_size, 0)
        - CASE WHEN counted THEN coalesce(OLD.virtual_size, 0) ELSE 0 END, most.virtual_size);
    PERFORM keep_within('stored_size', used.stored_size, coalesce(NEW.reserved_size, 0)
        - CASE WHEN counted THEN coalesce(OLD.reserved_size, 0) ELSE 0 END, most.stored_size);
    RETURN NULL;
END $$;
CREATE TRIGGER quotas_new AFTER INSERT ON images FOR EACH ROW EXECUTE FUNCTION keep_image_quotas();
CREATE TRIGGER quotas_changed AFTER UPDATE OF status, virtual_size, reserved_size ON images FOR EACH ROW
    WHEN ((OLD.status IN ('killed', 'deleted'), OLD.virtual_size, OLD.reserved_size)
        IS DISTINCT FROM (NEW.status IN ('killed', 'deleted'), NEW.virtual_size, NEW.reserved_size))
    EXECUTE FUNCTION keep_image_quotas();

CREATE FUNCTION keep_operations_quota() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
DECLARE
    project uuid := (SELECT project_id FROM images WHERE id = NEW.image_id);
    most quotas;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.expires_at > now() THEN
        RETURN NULL;                                    -- it was counted before
    END IF;
    SELECT * INTO most FROM quotas WHERE project_id = project FOR UPDATE;
    IF FOUND THEN
        PERFORM keep_within('operations', (SELECT operations FROM usage(project)), 1, most.operations);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER quotas AFTER INSERT OR UPDATE OF holder ON leases FOR EACH ROW EXECUTE FUNCTION keep_operations_quota();

CREATE FUNCTION keep_members_quota() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
DECLARE
    owner uuid := (SELECT project_id FROM images WHERE id = NEW.image_id FOR NO KEY UPDATE);
BEGIN
    PERFORM keep_within('members', (SELECT count(*) FROM members WHERE image_id = NEW.image_id), 1,
        coalesce((SELECT members FROM quotas WHERE project_id = owner), 256));
    RETURN NULL;
END $$;
CREATE TRIGGER quotas AFTER INSERT ON members FOR EACH ROW EXECUTE FUNCTION keep_members_quota();
