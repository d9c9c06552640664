"""The execution agent: runs jobs on one host.

It heartbeats and renews its leases (``presence``), claims jobs (``claims``), and runs them
(``runner``, whose docstring follows a job through the other modules). A separate process starts
and ends the lines of the jobs' commands (``keeper``).
"""
