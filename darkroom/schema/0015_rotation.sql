-- A rotation puts the wrap by a key's new version in place of that by the old one.

GRANT UPDATE (wrapped_secret) ON scopes TO darkroom_project;
GRANT UPDATE (wrapped) ON wraps TO darkroom_project;

-- That also where the image is not seen at the moment: it is shared, and its owner has deactivated it.
CREATE POLICY rotate ON wraps FOR UPDATE USING (project_id = (SELECT current_project()));
