"""Amounts of memory, for people."""


def in_words(size: int) -> str:
    """Bytes as GiB, or as MiB where that is less than one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
