-- Deleting: an image is invisible at once, can be restored within its project's window, and is then purged.

ALTER TABLE projects ADD COLUMN restore_window interval NOT NULL DEFAULT '7 days';  -- how long deleted images are kept

ALTER TABLE images
    ADD COLUMN deleted_at timestamptz,                  -- since when it has been in status deleted
    ADD COLUMN deleted_from text,                       -- the status that restoring it brings back
    ADD COLUMN purge_after timestamptz,                 -- when its window ends
    ADD COLUMN purged_at timestamptz;                   -- its wraps and references are gone; it cannot be restored
CREATE INDEX images_deleted ON images (purge_after) WHERE status = 'deleted';

-- The end of all that the data key of an image is wrapped or sealed for, when its owner purges it: its members too.
CREATE FUNCTION destroy_wraps(image uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
BEGIN
    IF (owns(image) OR is_operator()) AND EXISTS (SELECT FROM images WHERE id = image AND status IN ('deleted', 'killed')) THEN
        DELETE FROM members WHERE image_id = image;
        DELETE FROM wraps WHERE image_id = image;
    END IF;
END $$;
-- The last step of a purge, the only way in which a project removes the row of an image. Whether there was one.
CREATE FUNCTION remove_image(image uuid) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
BEGIN
    DELETE FROM images WHERE id = image AND purged_at IS NOT NULL AND status IN ('deleted', 'killed')
        AND (owns(image) OR is_operator());
    RETURN FOUND;
END $$;
REVOKE EXECUTE ON FUNCTION destroy_wraps, remove_image FROM PUBLIC;
GRANT EXECUTE ON FUNCTION destroy_wraps, remove_image TO darkroom_project, darkroom_operator;

-- The operator is no project: what it does to an image is in the log of the image's project, the rest in no project's.
ALTER TABLE events ALTER COLUMN project_id DROP NOT NULL;
CREATE FUNCTION name_project() RETURNS trigger LANGUAGE plpgsql SET search_path = darkroom AS $$
BEGIN
    NEW.project_id := coalesce(NEW.project_id, (SELECT project_id FROM images WHERE id = NEW.image_id));
    RETURN NEW;
END $$;
CREATE TRIGGER name_project BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION name_project();

-- A sidecar is written by the image's owner and the operator: it tells who else is a member. (0025 told it to members.)
CREATE OR REPLACE FUNCTION sidecar(image uuid) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    IF NOT (owns(image) OR is_operator()) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('sidecar ' || image, 0));
    found := image_record(image);
    INSERT INTO sidecars SELECT image, sha256(convert_to(found::text, 'UTF8')) WHERE found IS NOT NULL
        ON CONFLICT (image_id) DO UPDATE SET digest = excluded.digest;
    RETURN found;
END $$;
GRANT EXECUTE ON FUNCTION sidecar, image_record TO darkroom_operator;
DROP FUNCTION caller;
