-- The order by size, so that the index gives it under row-level security too: CASE leaks nothing, of coalesce the planner
-- does not know that. And the order in which images are checked again.

DROP INDEX images_by_size;
CREATE INDEX images_by_size ON images (project_id, (CASE WHEN stored_size IS NULL THEN 0 ELSE stored_size END), id)
    WHERE status <> 'deleted';
CREATE INDEX images_by_check ON images (project_id, checked_at NULLS FIRST, id) WHERE status IN ('active', 'deactivated');
