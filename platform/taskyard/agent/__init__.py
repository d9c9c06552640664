"""The execution agent: it heartbeats and renews (``presence``), takes jobs (``claims``), and runs
them (``runner``, which says how a job goes through the other modules); a process of its own starts
and ends their lines (``keeper``).
"""
