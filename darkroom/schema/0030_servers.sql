-- Compute hosts, and the servers and volumes on them. A disk is one row, whether a server's own or a volume.

CREATE TABLE hosts (                                    -- the operator's; every project may put servers on them
    name text PRIMARY KEY,
    uri text NOT NULL,                                  -- of libvirt, as it is reached on the host itself
    storage text NOT NULL,                              -- the folder of the host's disks, caches and sockets
    accelerator text NOT NULL CHECK (accelerator IN ('kvm', 'tcg')),  -- what a probe proved: guests run, or are emulated
    cache_size bigint NOT NULL,                         -- bytes that the chunk cache may take of the storage
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE servers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),      -- of the domain in libvirt too
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    name text NOT NULL,
    host text NOT NULL REFERENCES hosts,
    image_id uuid NOT NULL,                             -- no foreign key: the server outlives its image
    status text NOT NULL DEFAULT 'creating' CHECK (status IN ('creating', 'ready', 'deleting')),
    holder text,                                        -- the process on the host that creates or deletes it
    cpus integer NOT NULL,
    memory integer NOT NULL,                            -- MiB
    boot_mode text NOT NULL CHECK (boot_mode IN ('bios', 'uefi')),
    network text NOT NULL,                              -- of libvirt; empty: none; user: QEMU's own
    queues integer NOT NULL DEFAULT 1,                  -- of the network device
    request jsonb NOT NULL,                             -- the request that made it; of user data only the digest
    created_at timestamptz NOT NULL DEFAULT now(),
    ready_at timestamptz,                               -- when it first ran
    UNIQUE (project_id, name)
);

CREATE TABLE server_disks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),      -- the holder in holds, and the name of its files
    project_id uuid NOT NULL DEFAULT current_project() REFERENCES projects,
    host text NOT NULL REFERENCES hosts,
    volume text,                                        -- the name of a volume; null: a disk of a server, which goes with it
    server_id uuid REFERENCES servers,                  -- null: a volume that is not attached
    target text,                                        -- its name in the server, such as vda
    size bigint NOT NULL,                               -- guest-visible bytes
    status text NOT NULL DEFAULT 'creating' CHECK (status IN ('creating', 'lazy', 'whole', 'deleting')),
        -- lazy: what it has not yet is read from the image; whole: it depends on nothing
    holder text,                                        -- the process on the host that creates or deletes it
    hydrated bigint NOT NULL DEFAULT 0,                 -- bytes of a lazy disk that the background copy went over
    image_id uuid NOT NULL,                             -- with the next two, what it is read from
    image_disk integer NOT NULL,
    manifest_digest bytea NOT NULL,
    key_name text,                                      -- the project's KEK of the next two; null: a plain image
    data_key bytea,                                     -- its own wrap of the image's data key, until it is whole
    disk_key bytea,                                     -- the wrap of the key that encrypts its file on the host
    request jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, volume),
    UNIQUE (server_id, target)
);
CREATE INDEX server_disks_host ON server_disks (host, status);

ALTER TABLE disks ADD profile integer[];                -- the chunks that a boot reads, in order; a new server prefetches them

ALTER TABLE hosts ENABLE ROW LEVEL SECURITY;
CREATE POLICY every ON hosts FOR SELECT USING (true);
ALTER TABLE servers ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON servers USING (project_id = (SELECT current_project()));
ALTER TABLE server_disks ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON server_disks USING (project_id = (SELECT current_project()));
GRANT SELECT ON hosts, servers, server_disks TO darkroom_project;
GRANT INSERT, UPDATE, DELETE ON servers, server_disks TO darkroom_project;

-- What servers have taken of a host, of all projects: a number, so that a full host can be refused.
CREATE FUNCTION memory_taken(host_name text) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = darkroom
    BEGIN ATOMIC SELECT coalesce(sum(memory), 0) FROM servers WHERE host = host_name; END;
