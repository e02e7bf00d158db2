-- Batch migrations: a table of sources, whose rows are imported by any number of processes on any number of hosts. The
-- rows are the queue: each is claimed under a lease, so that one whose process died is taken over.

CREATE TABLE batches (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    source text NOT NULL,                               -- where the table was read from; holds no credentials
    digest bytea NOT NULL,                              -- of its rows: the same table again finds its batch
    report text NOT NULL DEFAULT '',                    -- where the report is written; empty: nowhere
    stopped boolean NOT NULL DEFAULT false,             -- no row is begun until the batch is asked for again
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, digest)
);

CREATE TABLE batch_rows (
    batch_id uuid NOT NULL REFERENCES batches ON DELETE CASCADE,
    number integer NOT NULL,                            -- the row as a spreadsheet counts it: the header is row 1
    request jsonb NOT NULL,                             -- the import that it asks for; holds no secret
    status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'done', 'failed')),
    attempts integer NOT NULL DEFAULT 0,                -- how often it was begun
    due_at timestamptz NOT NULL DEFAULT now(),          -- not to be begun before: what failed and may pass waits
    holder text,                                        -- the process that imports it, as in leases
    expires_at timestamptz,                             -- then another process may take it over
    image_id uuid,                                      -- no foreign key: the report outlives the image
    code text,                                          -- why it failed, or is to be tried again
    reason text,                                        -- the same in a sentence
    virtual_size bigint,                                -- of the image, in bytes
    new_size bigint,                                    -- bytes that it brought to the store
    seconds double precision,                           -- that its last attempt took
    PRIMARY KEY (batch_id, number),
    CHECK ((status = 'running') = (holder IS NOT NULL AND expires_at IS NOT NULL))
);
CREATE INDEX batch_rows_due ON batch_rows (batch_id, due_at, number) WHERE status = 'queued';
CREATE INDEX batch_rows_running ON batch_rows (batch_id, expires_at) WHERE status = 'running';

ALTER TABLE batches ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON batches USING (project_id = (SELECT current_project()));
ALTER TABLE batch_rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON batch_rows USING (EXISTS (SELECT FROM batches WHERE batches.id = batch_id));

GRANT SELECT, INSERT, UPDATE ON batches, batch_rows TO darkroom_project;
