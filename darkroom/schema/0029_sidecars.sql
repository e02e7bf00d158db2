-- When a sidecar was last written, which tells whether a member has answered since.

ALTER TABLE sidecars ADD COLUMN written_at timestamptz NOT NULL DEFAULT now();

CREATE OR REPLACE FUNCTION sidecar(image uuid) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = darkroom, pg_temp AS $$
DECLARE
    known jsonb;
BEGIN
    IF NOT (owns(image) OR is_operator()) THEN
        RETURN NULL;
    END IF;
    PERFORM FROM images WHERE id = image AND status <> 'killed' AND purged_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    known := image_record(image);
    INSERT INTO sidecars VALUES (image, sha256(convert_to(known::text, 'UTF8')))
        ON CONFLICT (image_id) DO UPDATE SET digest = excluded.digest, written_at = now();
    RETURN known;
END $$;
