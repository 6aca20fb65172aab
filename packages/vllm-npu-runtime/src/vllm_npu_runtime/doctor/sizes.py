"""Amounts of memory, for people."""


def in_words(size: int) -> str:
    """Bytes as GiB, or as MiB or KiB where that is less than one."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
