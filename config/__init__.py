"""Everything an operator can set, and what both services have in common; it imports neither.

Start with `settings`: one definition a setting, with its default, bounds and meaning. The rest follows from it.

    settings.py   the settings themselves, one model a service
    kinds.py      kinds of values: how each is read from text, and how what is allowed is put in words
    load.py       command line, environment, TOML file -> settings, or one message with every fault
    describe.py   the settings in words: `--help` and the README's table
    flags.py      feature flags: read, flip while running, observe
    rules.py      route rules: the rules file, and which rule a request falls under
    rule.py       one rule: what may stand in it, and what is refused because it would leak
    patterns.py   path patterns of rules, and finding the first of many that matches
    tier.py       the Redis that replicas share, never the outage; redis_place.py reads its URL, redis_client.py is the
                  library, and is imported only where there is one
    metrics.py    what both services measure of their process, and how metrics are written out; tier_metrics.py: of the
                  tier
    bulletin.py   a numbered log that all replicas read; everywhere.py flips flags by it
    tracing.py    whether there are traces, and what the running code works for; otel.py makes them by OpenTelemetry's
                  SDK, and is imported only then; trace_context.py reads and writes `traceparent`
    listen.py     listening sockets; descriptors.py has as many connections as the system lets one have; lag.py says how
                  late the event loop is; tasks.py ends tasks; spare_memory.py gives back what is free
    answers.py    applications whose answers are JSON; access.py says who may change something
    room.py       how many clients may be connected; untaken.py what is on its way to or from one of them; ending.py how
                  connections end
    process.py    standard streams, and how a process is told to stop; interrupted.py is for Ctrl-C at its very start
    logs.py       the log on standard error; teller.py writes it, and waits for nobody; told.py says a thing once
    output.py     what a command says on standard output, be its disk full
    toml_file.py  a TOML file, or why it is none; files that are tables of one kind, and what is wrong with each
    words.py      what messages have in common: values shown safely, did-you-mean
    version.py    the version, said once
"""
