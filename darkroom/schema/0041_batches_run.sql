-- Who leads a batch: the run of the flow that asked for it last. When that run is cancelled, the batch is stopped.
ALTER TABLE batches ADD COLUMN run text NOT NULL DEFAULT '';  -- the id that Prefect gave it; empty: none
