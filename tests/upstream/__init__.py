"""Kombu's and Celery's own integration suites, run on our broker."""
