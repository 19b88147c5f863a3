"""Numbers as pages, tables and terminals show them. Standard library only."""


def percent(value: float | None) -> str:
    """A share 0..1, such as "91.3%"."""
    return "–" if value is None else f"{value:.1%}" if value < 0.9995 else "100%"


def figure(value: float | None, digits: int = 3, none: str = "–") -> str:
    """A figure with a fixed number of digits after the point."""
    return none if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """A number of things, such as "512", "12.5 k" or "5.0 M"."""
    if value is None:
        return "–"
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.1f} {letter}"
    return str(value)


def size(n_bytes: int) -> str:
    """A number of bytes, such as "512 B" or "5.0 MB"."""
    return f"{count(n_bytes)}B" if n_bytes >= 1000 else f"{n_bytes} B"


def duration(seconds: float | None) -> str:
    """Minutes and seconds, such as "1 min 01 s"."""
    if seconds is None:
        return "some minutes"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def rough_duration(seconds: float) -> str:
    """Seconds or minutes, such as "95 s" or "3 min"."""
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"
