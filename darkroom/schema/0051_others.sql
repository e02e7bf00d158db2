-- What later migrations left open: a member wrote the boot proof of an image that it may only read, and a disk could be
-- put into a server of another project whose id was known.

DROP POLICY own ON proofs;
CREATE POLICY own ON proofs USING (owns(image_id));
CREATE POLICY shared ON proofs FOR SELECT USING (EXISTS (SELECT FROM images WHERE images.id = image_id));

DROP POLICY own ON server_disks;
CREATE POLICY own ON server_disks USING (project_id = (SELECT current_project()))
    WITH CHECK (project_id = (SELECT current_project())
        AND (server_id IS NULL OR EXISTS (SELECT FROM servers WHERE servers.id = server_id)));
