"""Where a key's records lie: the partition that Java's clients choose, and so does the relay."""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key in a topic of so many."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Return MurmurHash 2 with Kafka's seed, as 32 bits."""
    hash_ = (_SEED ^ len(data)) & _MASK
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        word = (word ^ (word >> 24)) * _M & _MASK
        hash_ = (hash_ * _M & _MASK) ^ word
    if whole < len(data):
        hash_ = (hash_ ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    hash_ = (hash_ ^ (hash_ >> 13)) * _M & _MASK
    return hash_ ^ (hash_ >> 15)
