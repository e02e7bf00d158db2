"""The statuses of an image and the moves between them.

    queued ──▶ saving ──▶ active ◀──▶ deactivated
       │          │          │            │
       └──────────┴▶ killed  └──▶ deleted ◀┘

`queued` and `saving` are not final: such an image carries a lease, and a reason is recorded when it is killed.
"""

MOVES: dict[str, frozenset[str]] = {
    "queued": frozenset({"saving", "killed"}),
    "saving": frozenset({"active", "killed"}),
    "active": frozenset({"deactivated", "deleted"}),
    "deactivated": frozenset({"active", "deleted"}),
    "deleted": frozenset({"active", "deactivated"}),
    "killed": frozenset(),
}
UNFINISHED = ("queued", "saving")


def before(status: str) -> list[str]:
    """The statuses from which an image may move to `status`."""
    return sorted(source for source, targets in MOVES.items() if status in targets)
