"""Batch migration: the rows of a table become images, whoever of several processes gets to them first.

The batch and its rows are in the catalog, so that the same table again goes on where it was left, on any machine. A row
is claimed under a lease and imported by the steps of an ordinary import, which find what an earlier attempt left: no
row is imported twice, even where its lease was lost in the middle. One row's failure is its own.

`table` reads and checks, `batch` registers, plans and sums up, `work` imports, `report` writes.
"""
