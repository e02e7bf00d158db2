-- Whether an image is held is its owner's to know, and the operator's; to anybody else it would tell that it exists.

CREATE OR REPLACE FUNCTION is_held(image uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = darkroom, pg_temp
    BEGIN ATOMIC
        SELECT EXISTS (SELECT FROM holds h JOIN images i ON i.id = h.image_id
            WHERE h.image_id = image AND (i.project_id = current_project() OR is_operator()));
    END;
