-- Deleting: an image is invisible at once, can be restored within its project's window, and is then purged.

ALTER TABLE projects ADD COLUMN restore_window interval NOT NULL DEFAULT '7 days';  -- how long deleted images are kept

ALTER TABLE images
    ADD COLUMN deleted_at timestamptz,                  -- since when it has been in status deleted
    ADD COLUMN deleted_from text,                       -- the status that restoring it brings back
    ADD COLUMN purge_after timestamptz,                 -- when its window ends
    ADD COLUMN purged_at timestamptz;                   -- its wraps and references are gone; it cannot be restored
CREATE INDEX images_deleted ON images (purge_after) WHERE status = 'deleted';

GRANT DELETE ON images TO darkroom_project;
CREATE POLICY purged ON images AS RESTRICTIVE FOR DELETE USING (purged_at IS NOT NULL OR status = 'killed');

-- The end of all wraps of an image that its owner purges, also of those that are other projects'.
CREATE FUNCTION destroy_wraps(image uuid) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = darkroom
    BEGIN ATOMIC
        DELETE FROM wraps w USING images i JOIN projects p ON p.id = i.project_id
        WHERE w.image_id = image AND i.id = image AND i.status IN ('deleted', 'killed')
            AND (p.role_name = caller() OR NOT EXISTS (SELECT FROM projects WHERE role_name = caller()));
    END;
REVOKE EXECUTE ON FUNCTION destroy_wraps FROM PUBLIC;
GRANT EXECUTE ON FUNCTION destroy_wraps TO darkroom_project;

-- The operator is no project: what it does to an image is in the log of the image's project, the rest in no project's.
ALTER TABLE events ALTER COLUMN project_id DROP NOT NULL;
CREATE FUNCTION name_project() RETURNS trigger LANGUAGE plpgsql SET search_path = darkroom AS $$
BEGIN
    NEW.project_id := coalesce(NEW.project_id, (SELECT project_id FROM images WHERE id = NEW.image_id));
    RETURN NEW;
END $$;
CREATE TRIGGER name_project BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION name_project();
