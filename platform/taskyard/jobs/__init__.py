"""Jobs as values: states and the verbs between them (``lifecycle``), retry, late writes
(``refusal``), and the search language. No I/O and no clock reads in this package.
"""
