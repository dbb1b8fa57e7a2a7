"""What happened, told once, and its readers.

events -- one typed observation for each request.
briefs -- requests that were answered the short way, told in batches.
metrics -- reads observations into Prometheus metrics (tallies) and the report for the dashboard.
live -- what the live page shows: numbers that add up over workers, and the slowest requests of late.
access_log -- reads observations into one line each, which log_lines (pure) forms.
traces -- reads observations into spans, where a collector is named; imported only then.

Nothing here decides anything, and nothing here may make a request wait or fail.
"""
