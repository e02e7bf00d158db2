-- What belongs to an image and is not meant for members: whether its sidecar is up to date.

DROP POLICY own ON sidecars;
CREATE POLICY own ON sidecars USING (owns(image_id));
