-- Three questions, answered from what the pipeline wrote. DuckDB, started where data/ lies:
--   duckdb < examples/flights/questions.sql
CREATE VIEW flights AS
SELECT * FROM read_parquet('data/flights/output/dt=*/hour=*/*.parquet', hive_partitioning = true);

-- How many flights?
SELECT count(*) AS flights FROM flights;

-- How many were cancelled, which is to say never left?
SELECT count(*) AS cancelled FROM flights WHERE departure.minute IS NULL;

-- How late did each airline leave, on average, in minutes?
SELECT carrier, round(avg(departure.delay_minutes), 2) AS mean_delay_minutes
FROM flights GROUP BY carrier ORDER BY mean_delay_minutes DESC;
