"""Chaos: a real platform under load and faults, and a checker that looks at it from outside.

``python -m tests.chaos --help`` lists what can be run; ``README.md`` says what each prints.
"""
