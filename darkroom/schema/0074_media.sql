-- Installation media (ISO), and servers that begin with one and a blank disk.

ALTER TABLE images DROP CONSTRAINT images_type_check;
ALTER TABLE images ADD CONSTRAINT images_type_check CHECK (type IN ('system', 'data', 'full', 'iso'));

ALTER TABLE server_disks ADD medium boolean NOT NULL DEFAULT false;  -- an ISO: the guest's CD-ROM, which it does not write to
ALTER TABLE server_disks ALTER manifest_digest DROP NOT NULL;        -- null: a blank disk, which is read from nothing
