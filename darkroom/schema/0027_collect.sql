-- Which chunks of a pack are in use can be told without any data key: packs that are mostly dead can be compacted.

ALTER TABLE packs ADD COLUMN positions integer[];       -- offsets of all chunks of its trailer, in order; null: unknown
ALTER TABLE refs ADD COLUMN used bit varying;
    -- which of the pack's chunks the manifests of the image name, in the order of positions; null: it may be any
GRANT UPDATE (positions) ON packs TO darkroom_project;
GRANT UPDATE (used) ON refs TO darkroom_project;

-- The packs with their project and the key of their object, for the operator.
CREATE VIEW pack_objects WITH (security_invoker) AS
    SELECT p.id, p.uuid, p.status, j.name AS project,
        'scopes/' || s.uuid || '/packs/' || left(p.uuid::text, 2) || '/' || p.uuid AS key
    FROM packs p JOIN scopes s ON s.id = p.scope_id JOIN projects j ON j.id = s.project_id;
GRANT SELECT ON pack_objects TO darkroom_operator;
