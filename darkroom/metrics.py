"""Metrics in Prometheus' text format, computed from the catalog each time they are asked for.

Nothing is counted in processes, so that nothing is lost with one, and any number of hosts gives the same answer.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from darkroom.catalog import Catalog, Row

_IMAGES = """SELECT p.name AS project, i.status, count(*) AS n FROM images i JOIN projects p ON p.id = i.project_id
    GROUP BY 1, 2 ORDER BY 1, 2"""
_SIZES = """SELECT p.name AS project, coalesce(sum(i.virtual_size), 0)::float8 AS virtual,
    coalesce(sum(i.allocated_size), 0)::float8 AS allocated, coalesce(sum(i.stored_size), 0)::float8 AS stored
    FROM projects p LEFT JOIN images i ON i.project_id = p.id AND i.status IN ('active', 'deactivated')
    GROUP BY 1 ORDER BY 1"""
_STORE = """SELECT p.name AS project, coalesce(sum(k.size), 0)::float8 AS size FROM projects p
    LEFT JOIN scopes s ON s.project_id = p.id LEFT JOIN packs k ON k.scope_id = s.id AND k.status = 'stored'
    GROUP BY 1 ORDER BY 1"""
# A failure is an increase only where there was a 0 before it.
_OPERATIONS = """WITH summed AS (
        SELECT project_id, labels, sum(n) AS n FROM totals WHERE counter = 'operations' GROUP BY 1, 2
    ) SELECT p.name AS project, t.labels[1] AS operation, t.labels[2] AS outcome, sum(t.n)::bigint AS n
    FROM (TABLE summed UNION ALL SELECT DISTINCT project_id, ARRAY[labels[1], 'failed'], 0 FROM summed) t
    JOIN projects p ON p.id = t.project_id GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
_FAILURES = """SELECT p.name AS project, t.labels[1] AS code, sum(t.n)::bigint AS n
    FROM totals t JOIN projects p ON p.id = t.project_id WHERE t.counter = 'failures' GROUP BY 1, 2 ORDER BY 1, 2"""
_ROWS = """SELECT p.name AS project, CASE WHEN b.stopped AND r.status = 'queued' THEN 'stopped' ELSE r.status END
    AS status, count(*) AS n FROM batch_rows r JOIN batches b ON b.id = r.batch_id
    JOIN projects p ON p.id = b.project_id GROUP BY 1, 2 ORDER BY 1, 2"""
_LEASES = """SELECT count(*) FILTER (WHERE expires_at >= now()) AS held,
    count(*) FILTER (WHERE expires_at < now()) AS expired FROM leases"""


def text(catalog: Catalog, well: Mapping[str, bool]) -> str:
    """All metrics, of the projects that the catalog's role sees: of all of them for the operator.

    `well` says of each system whether it is.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(catalog, well))
    return generate_latest(registry).decode()


class _Collector(Collector):
    def __init__(self, catalog: Catalog, well: Mapping[str, bool]) -> None:
        self._catalog, self._well = catalog, well

    def describe(self) -> list[Metric]:
        """Nothing: or the registry would ask the catalog when it is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families, each from one query."""
        yield self._gauge("images", "Images by status", _IMAGES, ("project", "status"))
        yield from self._bytes()
        yield self._counter(
            "operations", "Entries that the audit log has had", _OPERATIONS, ("project", "operation", "outcome")
        )
        yield self._counter(
            "failures", "Images killed so far, by the code of the reason", _FAILURES, ("project", "code")
        )
        yield self._gauge("migration_rows", "Rows of batch migrations by status", _ROWS, ("project", "status"))
        leases = GaugeMetricFamily("darkroom_leases", "Images that are not final, by their lease", labels=["lease"])
        for name, count in self._rows(_LEASES)[0].items():
            leases.add_metric([name], count)
        yield leases
        systems = GaugeMetricFamily("darkroom_well", "Whether a system is well, as /health says", labels=["system"])
        for name, well in self._well.items():
            systems.add_metric([name], well)
        yield systems

    def _bytes(self) -> Iterator[Metric]:
        """Sizes of the images that can be read, of what is in the store, and how many times data is shared."""
        sizes = GaugeMetricFamily(
            "darkroom_image_bytes", "Bytes of all images, as told of each", labels=["project", "kind"]
        )
        ratio = GaugeMetricFamily("darkroom_dedup_ratio", "Bytes of data per byte in the store", labels=["project"])
        held = GaugeMetricFamily("darkroom_store_bytes", "Bytes of packs in the store", labels=["project"])
        stored = {row["project"]: row["size"] for row in self._rows(_STORE)}
        for row in self._rows(_SIZES):
            for kind in ("virtual", "allocated", "stored"):
                sizes.add_metric([row["project"], kind], row[kind])
            held.add_metric([row["project"]], stored[row["project"]])
            if stored[row["project"]]:
                ratio.add_metric([row["project"]], row["allocated"] / stored[row["project"]])
        yield from (sizes, held, ratio)

    def _gauge(self, name: str, meaning: str, query: str, labels: tuple[str, ...]) -> Metric:
        family = GaugeMetricFamily(f"darkroom_{name}", meaning, labels=labels)
        for row in self._rows(query):
            family.add_metric([row[label] for label in labels], row["n"])
        return family

    def _counter(self, name: str, meaning: str, query: str, labels: tuple[str, ...]) -> Metric:
        family = CounterMetricFamily(f"darkroom_{name}", meaning, labels=labels)
        for row in self._rows(query):
            family.add_metric([row[label] for label in labels], row["n"])
        return family

    def _rows(self, query: str) -> list[Row]:
        return self._catalog.rows(query.encode())
