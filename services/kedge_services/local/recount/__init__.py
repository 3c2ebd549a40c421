"""Counts everything again from the raw topics, and says where what was published differs.

It shares no code with the services: it imports the standard library, confluent-kafka and,
for Arrow batches, pyarrow, nothing else of Kedge, and keeps all records of a question in
dictionaries until the question is answered.  No stream, no state, no
watermark that could be restored wrongly: what it finds, it finds the simple way.

``reading`` reads topics, ``batches`` takes Arrow batches apart, ``plain`` says what
records and monitors are; ``letters``
are the dead letters, ``intake`` judges single records, ``joining`` puts predictions
and outcomes together; ``examples``, ``panes``, ``windows``, ``pairs`` and
``figures`` compare; ``recount`` ties them together.

The topics should be at rest: what is on its way between two of them while it
reads looks like a difference.
"""
