"""What ``celery -A taskyard.celery_app`` loads in a checkout: the packaged settings, to edit.

Everything comes from ``taskyard.celery_settings``; add or change a name below to override it.
An installed wheel runs without this file.
"""

from taskyard.celery_settings import *  # noqa: F403 - this file is that module, made editable
