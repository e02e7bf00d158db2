"""Prefect blocks: how to reach the systems. Each is configuration and one factory that gives the domain's object.

Named here for `prefect block register -m blocks`.
"""

from blocks.catalog import CatalogDatabase
from blocks.host import LibvirtHost
from blocks.keys import KeyManager
from blocks.project import Project
from blocks.store import ObjectStore

__all__ = ["CatalogDatabase", "KeyManager", "LibvirtHost", "ObjectStore", "Project"]
