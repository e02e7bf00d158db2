-- The second database of compose.yaml's Postgres: Prefect's own. Run once, when there is no data yet.
CREATE DATABASE prefect OWNER darkroom;
