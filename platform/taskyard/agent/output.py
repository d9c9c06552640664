"""A job's output on its way to the store: decoded, put in order, bounded."""

from __future__ import annotations

import sys
from codecs import getincrementaldecoder

from taskyard.store.chunks import Chunk, cut_mark, pieces

#: The streams in the order of their file descriptors, 1 and 2.
STREAMS = ("stdout", "stderr")

_Decoder = getincrementaldecoder("utf-8")


class OutputBuffer:
    """Takes bytes of both streams as they come and gives chunks in one sequence.

    Keeps at most ``cap_bytes`` of an attempt; what comes after is dropped, and one mark says so.
    """

    def __init__(self, *, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes
        self._decoders = {stream: _Decoder("replace") for stream in STREAMS}
        self._waiting: list[tuple[str, str]] = []
        self._seq = 0
        #: Memory in use by output that waits to be taken.
        self.pending_bytes = 0
        self.kept_bytes = 0
        #: Whether something was dropped.
        self.truncated = False

    def feed(self, stream: str, data: bytes) -> None:
        """Add bytes that were read from a pipe."""
        room = self._cap_bytes - self.kept_bytes
        kept = data[: max(0, room)]
        self.kept_bytes += len(kept)
        self._wait(stream, self._decoders[stream].decode(kept))
        if len(kept) < len(data) and not self.truncated:
            self.truncated = True
            self._wait("stderr", cut_mark(self._cap_bytes))

    def finish(self) -> None:
        """Add what the decoders still hold of characters that were never completed."""
        for stream, decoder in self._decoders.items():
            self._wait(stream, decoder.decode(b"", final=True))

    def take(self) -> list[Chunk]:
        """Remove and return the chunks that are ready; neighbours of one stream are joined."""
        chunks: list[Chunk] = []
        for stream, text in _joined(self._waiting):
            chunks += pieces(stream, text, self._seq + len(chunks))
        self._seq += len(chunks)
        self._waiting.clear()
        self.pending_bytes = 0
        return chunks

    def _wait(self, stream: str, text: str) -> None:
        if text:
            self._waiting.append((stream, text))
            self.pending_bytes += sys.getsizeof(text)


def _joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    runs: list[tuple[str, list[str]]] = []
    for stream, text in pieces:
        if runs and runs[-1][0] == stream:
            runs[-1][1].append(text)
        else:
            runs.append((stream, [text]))
    return [(stream, "".join(texts)) for stream, texts in runs]
