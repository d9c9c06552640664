"""Celery's broker in MongoDB."""
