"""A first monitor from data: what the columns look like, what is guessed from that, as TOML.

``table`` describes columns, ``answers``, ``features`` and ``pace`` guess,
``draft`` puts the guesses together, ``writing`` writes them down, each with its
reason and how sure it is.  All of this is pure; ``from_file`` and
``from_topic`` read.
"""
