"""The platform's data in MongoDB, about one module for each collection.

Only this package, the broker and the embedded server use pymongo. The jobs collection has several
modules: ``jobs`` writes it (with ``statements``), ``leases`` renews leases, ``live`` reads it for
the scheduler and ``queries`` for people.
"""
