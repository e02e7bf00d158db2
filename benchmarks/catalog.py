"""A catalog of many images: pages at any depth, and the report against COPY. Prints times and ratios.

python benchmarks/catalog.py [IMAGES]
"""

import psycopg

from darkroom.catalog import Catalog

ROWS = """
INSERT INTO images (name, status, type, source, request, source_format, properties, virtual_size, allocated_size,
    stored_size, new_size, family, created_at, active_at, key_name)
SELECT (ARRAY['web', 'db', 'cache', 'build'])[1 + n % 4] || '-' || n,
    CASE WHEN n % 50 = 0 THEN 'killed' WHEN n % 51 = 0 THEN 'deactivated' WHEN n % 52 = 0 THEN 'deleted'
        ELSE 'active' END,
    CASE WHEN n % 5 = 0 THEN 'data' ELSE 'system' END, '/disks/' || n || '.vmdk', '{}', 'vmdk',
    jsonb_build_object('os_type', CASE WHEN n % 3 = 0 THEN 'Windows' ELSE 'Linux' END,
        'os_version', CASE WHEN n % 3 = 0 THEN 'Windows Server 2022' ELSE 'Debian ' || 10 + n % 4 END, 'min_ram', 512),
    (10 + n % 90) * 1024::bigint ^ 3, (1 + n % 9) * 1024::bigint ^ 3, (n % 1000 + 1) * 1024::bigint ^ 2,
    (n % 100 + 1) * 1024::bigint ^ 2, CASE WHEN n % 10 < 4 THEN 'family-' || n % 40 END,
    now() - (n / 3 || ' seconds')::interval, now() - (n / 3 || ' seconds')::interval,
    CASE WHEN n % 2 = 0 THEN 'gold' END
FROM generate_series(1, %s) n"""
BESIDE = (
    "INSERT INTO disks (image_id, number, virtual_size) SELECT id, 0, virtual_size FROM images",
    """INSERT INTO tags SELECT id, 'team', (ARRAY['web', 'db', 'ops'])[1 + abs(hashtext(name)) % 3] FROM images""",
    """INSERT INTO tags SELECT id, 'rare', '' FROM images WHERE name LIKE '%-12345'""",
)


def fill(dsn: str, count: int) -> None:
    """Make the images of the project `default`, with one statement a table."""
    Catalog(dsn, "default").close()
    with psycopg.connect(dsn, options="-c search_path=darkroom") as connection:
        project = connection.execute("SELECT id, role_name FROM projects").fetchone()
        assert project
        connection.execute("SET LOCAL synchronous_commit = off")
        rows = ROWS.replace("INSERT INTO images (", "INSERT INTO images (project_id, ").replace(
            "SELECT (ARRAY", f"SELECT '{project[0]}'::uuid, (ARRAY", 1
        )
        connection.execute(rows.replace("%s", str(count)).encode())
        for statement in BESIDE:
            connection.execute(statement.encode())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
