"""Running Siding: the tool `siding`, and what it and the tests try Siding with.

local        `siding up`: the whole on this machine, by local_settings, addresses, parts; stack starts and stops them
check/       `siding check`: the plan's criteria, measured
rollback/    `siding rollback`: the way back; asking sends the requests of both
compile      what every request runs through, as machine code
grafana/     dashboards as code
docker/      the image's health check

postgres     a PostgreSQL of this machine's own
example_origin/    a service that needs no Node
grading_simulator  OpenAI's API without a model: grading_model, grading_sheets say what it answers
serving, options   what programs and commands have in common
"""
