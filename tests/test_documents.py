"""Records read from documents equal those that their constructors make."""

from __future__ import annotations

import pytest

from taskyard.documents import to_document, to_record
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from tests import factories


@pytest.mark.parametrize("status", JobStatus)
def test_what_is_read_is_what_was_written(status: JobStatus) -> None:
    job = factories.job_in(status, labels=("gpu",))
    read = to_record(Job, {**to_document(job), "unheardOf": 1})
    assert read == job
    assert vars(read) == vars(job)
    assert read.status is status


def test_each_record_has_its_own_defaults() -> None:
    document = to_document(factories.queued_job())
    del document["env"]
    one, other = to_record(Job, document), to_record(Job, document)
    assert one.env == {}
    assert one.env is not other.env


def test_a_document_without_what_a_record_needs_is_refused() -> None:
    document = to_document(factories.queued_job())
    del document["command"]
    with pytest.raises(TypeError, match="command"):
        to_record(Job, document)
