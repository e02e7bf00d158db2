"""The parameters of the flows, which the Prefect UI shows as forms; one module an area."""
