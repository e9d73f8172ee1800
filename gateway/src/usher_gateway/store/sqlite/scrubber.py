"""Overwrites the old row copies that SQLite leaves in the database file.

SQLite overwrites deleted rows with zeros (``secure_delete``). But when it splits a page, or merges it with its
neighbours, it moves rows, and their old bytes stay in the *gap*: the unallocated bytes between a page's cell pointers
and its cells. If such a row is deleted later, its old copy stays readable. SQLite has no statement that clears
gaps, so the scrubber writes zeros into them. The file format defines where they are: https://sqlite.org/fileformat2.html
§1.6.

In WAL mode a page changes in the file only when a checkpoint copies it from the log. So after each checkpoint the
scrubber looks at the pages that are in the log. If that record is lost, because the process was killed or an earlier
release filled the file, it reads the whole file, piece by piece.
"""

import os
import threading
from pathlib import Path
from typing import IO

# The first byte of a page with rows is 2, 5, 10 or 13. All other pages begin with zeros or with the number of a page,
# whose first byte is below 2 in a file with at most this many pages. So no page is mistaken for another kind.
MOST_PAGES = 2**25 - 1

PIECE_BYTES = 4 * 1024 * 1024  # How many bytes one sweep step reads from the file

# First byte of a page with rows (an index's and a table's inner and leaf pages) -> its header's length.
_CELL_POINTERS_AT = {2: 12, 5: 12, 10: 8, 13: 8}

_FILE_HEADER = 100  # Bytes of the first page before its own header

_LOG_HEADER, _FRAME_HEADER = 32, 24
_SALTS = slice(16, 24)
_FRAMES_READ = 128  # Frames of the log that are read at once

_ZEROS = bytes(65_536)


class Scrubber:
    """Clears the gaps in a database file that this process owns.

    scrub() runs in the writer's thread, the other methods in any thread. ``is_swept``: no gap in the file has anything
    to clear.
    """

    def __init__(self, file: IO[bytes], log_path: Path, page_bytes: int, *, is_swept: bool) -> None:
        self._file, self._log_path, self._page_bytes = file, log_path, page_bytes
        self._lock = threading.Lock()
        self._pages: set[int] = set()  # Pages that may have something to clear
        self._added_salts, self._added_frames = b"", 0  # How far add_log() has read which log
        self._next_page = 1
        self._sweep_ends_at = 0 if is_swept else self._file_bytes() // page_bytes
        """The last page that the sweep reads; later ones come from this process's log."""
        self.has_written = False
        """True if the file has cleared gaps that are not flushed, so the writer may have old copies."""

    @property
    def is_swept(self) -> bool:
        """True if every page was read that an earlier process may have left unscrubbed."""
        return self._next_page > self._sweep_ends_at

    @property
    def is_done(self) -> bool:
        """Whether no page is known that may have something to clear, and the file is swept."""
        return self.is_swept and not self._pages

    def add_log(self, frames: int) -> None:
        """Add the pages whose last copy in the log has content in its gap.

        Call it after a checkpoint, before the writer can restart the log. The log may have uncommitted frames after
        the committed ``frames``.
        """
        frame_bytes = _FRAME_HEADER + self._page_bytes
        with self._lock, self._log_path.open("rb", buffering=0) as log:
            salts = os.pread(log.fileno(), _SALTS.stop, 0)[_SALTS]  # other ones after each restart of the log
            begin = self._added_frames if salts == self._added_salts else 0
            looked_at: set[int] = set()
            for end in range(frames, begin, -_FRAMES_READ):
                first = max(begin, end - _FRAMES_READ)
                part = os.pread(log.fileno(), (end - first) * frame_bytes, _LOG_HEADER + first * frame_bytes)
                for start in range(len(part) - frame_bytes, -1, -frame_bytes):
                    number = int.from_bytes(part[start : start + 4])
                    if number not in looked_at:
                        looked_at.add(number)
                        if self._filled_gap(part, start + _FRAME_HEADER, number):
                            self._pages.add(number)
            self._added_salts, self._added_frames = salts, max(begin, frames)

    def sweep(self) -> int:
        """Read the next piece of the file, and add its pages whose gap has content; return how many."""
        count = min(PIECE_BYTES // self._page_bytes, self._sweep_ends_at - self._next_page + 1)
        part = os.pread(self._file.fileno(), count * self._page_bytes, (self._next_page - 1) * self._page_bytes)
        numbers = range(self._next_page, self._next_page + count)
        pages = [
            number for index, number in enumerate(numbers) if self._filled_gap(part, index * self._page_bytes, number)
        ]
        with self._lock:
            self._pages.update(pages)
        self._next_page += count
        return len(pages)

    def scrub(self) -> None:
        """Clear the gaps in all pages that were added.

        The caller is the database's only writer, its last checkpoint copied the whole log, and it has committed
        nothing since. So no process has anything to copy into the file, and a page cannot change between the look at
        its header and the write. Readers never look into a gap.

        Raises:
            OSError: the file cannot be written; the pages stay added.
        """
        with self._lock:
            pages = sorted(self._pages)
        for number in pages:
            self._clear(number)
        with self._lock:
            self._pages.difference_update(pages)

    def _clear(self, number: int) -> None:
        file, offset = self._file.fileno(), (number - 1) * self._page_bytes
        page = os.pread(file, self._page_bytes, offset)
        gap = self._filled_gap(page, 0, number)
        if gap is not None:
            start, end = gap
            os.pwrite(file, _ZEROS[: end - start], offset + start)
            self.has_written = True

    def flush(self) -> None:
        """Flush what scrub() wrote."""
        os.fdatasync(self._file.fileno())
        self.has_written = False

    def _file_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _filled_gap(self, buffer: bytes, offset: int, number: int) -> tuple[int, int] | None:
        """Return where a page's gap begins and ends in a buffer; None if it has only zeros, or there is none.

        ``offset``: where the page begins. ``number``: the page's.
        """
        header = offset + _FILE_HEADER if number == 1 else offset
        pointers_at = _CELL_POINTERS_AT.get(buffer[header])
        if pointers_at is None:
            return None
        start = header + pointers_at + 2 * (buffer[header + 3] << 8 | buffer[header + 4])
        end = offset + ((buffer[header + 5] << 8 | buffer[header + 6]) or 65_536)
        if end > offset + self._page_bytes or buffer[start:end] == _ZEROS[: max(0, end - start)]:
            return None
        return start, end
