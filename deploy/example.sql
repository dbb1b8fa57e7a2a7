-- What `make run` puts into its PostgreSQL, for the example queries.
CREATE EXTENSION pg_stat_statements;
CREATE TABLE parent_reports (
    id         bigserial PRIMARY KEY,
    user_id    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    report     jsonb NOT NULL
);
INSERT INTO parent_reports (user_id, created_at, report)
SELECT CASE WHEN n % 2 = 0 THEN 'large_user' ELSE 'user_' || n % 500 END,
       timestamptz '2026-01-01' + n * interval '1 minute',
       jsonb_build_object('number', n, 'subjects', jsonb_build_array('math', 'art'), 'accuracy', round((n % 100) / 100.0, 2))
FROM generate_series(1, 20000) AS n;
CREATE INDEX parent_reports_user_id ON parent_reports (user_id);
ANALYZE parent_reports;
