"""What a Prefect server must know to run Darkroom: `prefect.yaml`, and `apply`, which makes it known."""
