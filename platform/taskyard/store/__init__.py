"""What the platform keeps in MongoDB, a collection a module; beside it, the broker and the embedded
server alone know pymongo. Jobs are written by ``jobs`` (``statements`` has how), their
leases renewed by ``leases``, and they are read by ``live`` for the scheduler and by ``queries`` for
people.
"""
