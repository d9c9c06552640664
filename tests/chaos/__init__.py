"""Chaos: a real platform under load and faults, and a checker that examines it from outside.

``python -m tests.chaos --help`` lists the runs; ``README.md`` describes each.
"""
