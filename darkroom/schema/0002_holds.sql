-- What still reads from an image, whatever becomes of the image: a server or volume that has not yet all of its disk.
-- A held image can be deleted, and is then invisible as ever, but its data and its row stay until the last hold goes.

CREATE TABLE holds (
    image_id uuid NOT NULL REFERENCES images,           -- no cascade: the row of a held image cannot go
    holder uuid NOT NULL,                               -- the server or volume that reads from it
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (image_id, holder)
);

ALTER TABLE holds ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON holds USING (project_id = (SELECT current_project()))
    WITH CHECK (project_id = (SELECT current_project()) AND EXISTS (SELECT FROM images WHERE images.id = image_id));
GRANT SELECT, INSERT, DELETE ON holds TO darkroom_project;

-- Whether anybody holds an image, in whichever project: the owner must know, and learns no more.
CREATE FUNCTION is_held(image uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom
    BEGIN ATOMIC SELECT EXISTS (SELECT FROM holds WHERE image_id = image); END;
