"""Prefect blocks: how to reach the systems. Each is configuration and one factory that gives the domain's object."""
