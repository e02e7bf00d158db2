"""Disks as readable lists of (kind, length), and small Readers over bytes."""

from hypothesis import strategies as st

from darkroom.model import CHUNK_SIZE, Extent

LENGTHS = [1, 511, 512, 4096, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE + 500]
parts = st.lists(
    st.tuples(st.sampled_from(["data", "same", "zero", "hole"]), st.sampled_from(LENGTHS)), min_size=1, max_size=8
)


class BytesReader:
    """A Reader over a list of parts; holes are reported as zero extents, `fail_at` raises as a source that breaks."""

    def __init__(self, described, seed=0):
        import random

        source = random.Random(seed)
        pieces, self._extents, at = [], [], 0
        for kind, length in described:
            data = {"data": source.randbytes(length), "same": b"\xab" * length}.get(kind, bytes(length))
            pieces.append(data)
            self._extents.append(Extent(at, length, zero=kind == "hole"))
            at += length
        self.data = b"".join(pieces)
        self.size = len(self.data)
        self.reads = []
        self.fail_at = None

    def read(self, offset, length):
        assert offset >= 0
        assert offset + length <= self.size
        self.reads.append((offset, length))
        if self.fail_at is not None and offset <= self.fail_at < offset + length:
            raise OSError("the source broke")
        return self.data[offset : offset + length]

    def extents(self, offset, length):
        found = []
        for extent in self._extents:
            start, end = max(extent.start, offset), min(extent.end, offset + length)
            if start < end:
                found.append(Extent(start, end - start, extent.zero))
        return found

    def close(self):
        pass
