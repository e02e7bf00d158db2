-- A server's id is that of its domain in libvirt: a project that chose it, or changed it, would start, stop and delete a
-- domain that is not Darkroom's.

REVOKE INSERT, UPDATE ON servers FROM darkroom_project;
GRANT INSERT (name, host, image_id, holder, cpus, memory, boot_mode, network, queues, request) ON servers
    TO darkroom_project;
GRANT UPDATE (status, holder, ready_at) ON servers TO darkroom_project;
REVOKE UPDATE ON server_disks FROM darkroom_project;
GRANT UPDATE (server_id, target, status, holder, hydrated, data_key, disk_key) ON server_disks TO darkroom_project;
