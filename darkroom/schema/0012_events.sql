-- The audit log tells from where somebody acts, and as which role also within functions of the schema's owner.

ALTER TABLE events ALTER COLUMN actor SET DEFAULT acting_role();
ALTER TABLE events ADD COLUMN client text NOT NULL DEFAULT current_setting('application_name');
    -- the account and host that the connection says it comes from; not proved
