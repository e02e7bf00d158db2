"""CRC-32C (Castagnoli, RFC 3720 appendix B.4)."""

from functools import cache


def _make_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _make_table()


def crc32c(data: bytes | bytearray) -> int:
    """The checksum of a header; of at most 64 KiB, so that Python is fast enough."""
    crc = 0xFFFFFFFF
    body = data.rstrip(b"\0")
    for byte in body:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    zeros = len(data) - len(body)  # most of a header
    for power in range(zeros.bit_length()):
        if zeros >> power & 1:
            crc = _applied(_zeros(power), crc)
    return crc ^ 0xFFFFFFFF


@cache
def _zeros(power: int) -> list[int]:
    """What 2**power zero bytes make of each bit of a checksum under way, which is linear in them."""
    if power == 0:
        return [_TABLE[bit & 0xFF] ^ bit >> 8 for bit in (1 << number for number in range(32))]
    return [_applied(_zeros(power - 1), value) for value in _zeros(power - 1)]


def _applied(operator: list[int], crc: int) -> int:
    result = 0
    for number, value in enumerate(operator):
        if crc >> number & 1:
            result ^= value
    return result
