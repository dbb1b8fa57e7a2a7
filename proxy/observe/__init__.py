"""What happened, told once, and its readers.

events -- one typed observation for each request.
metrics -- reads observations into Prometheus metrics and the report for the dashboard.
access_log -- reads observations into one line each; also the application's own log.
traces -- reads observations into spans, where a collector is named; imported only then.

Nothing here decides anything, and nothing here may make a request wait or fail.
"""
