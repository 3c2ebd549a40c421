"""How fast Kedge is on this machine: each case beside what Kafka and the decoder alone allow.

=========  ====================================================================
figures    one run's measures; medians, spreads, percentiles, exponents
workload   events by seed: distinct rows, cheaply given ids and times
filling    puts them into Kafka, all at once or at a rate
ground     the local Kafka, and topics of a case's own
child      a service as `kedge run` starts it, its CPU time and memory
limit      consume and decode, nothing else: what a case is held to
checking   what came out, counted: a run whose results are wrong has failed
cases      by name; `panes`, `windows`, `latency`, ... hold them
report     the same figures as JSON and as a page
=========  ====================================================================
"""
