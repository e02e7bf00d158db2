-- A capture that was killed begins at a new instant, with the disks that the server has then.

GRANT DELETE ON disks TO darkroom_project;

-- Whether a domain is the server of any project: a number that another project can guess must not open its disks.
CREATE FUNCTION is_server(domain uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom
    BEGIN ATOMIC SELECT EXISTS (SELECT FROM servers WHERE id = domain); END;

-- The last boot proof of an image. What it showed is sealed by the data key of an encrypted image.
CREATE TABLE proofs (
    image_id uuid PRIMARY KEY REFERENCES images ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT now(),
    how text NOT NULL,                                  -- the sign by which it had booted; empty: it did not
    reason text NOT NULL,                               -- why it did not
    seconds real NOT NULL,                              -- from the start of the guest to that
    serial bytea NOT NULL,                              -- the last of its serial port's output
    screenshot bytea NOT NULL                           -- a PNG
);
ALTER TABLE proofs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON proofs USING (EXISTS (SELECT FROM images WHERE images.id = image_id));
GRANT SELECT, INSERT, UPDATE ON proofs TO darkroom_project;
ALTER TABLE images ADD boot_verified_at timestamptz;    -- when it last booted in a proof
