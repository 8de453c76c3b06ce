"""Hours of the day as a setting: "22-6" is from 22:00 to 6:00, across midnight."""

import re

_RANGE = re.compile(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*")


def parse_hours(text: str) -> tuple[int, int]:
    """First hour and the hour at which it is over. Raises ValueError saying how to write it."""
    match = _RANGE.fullmatch(text)
    first, end = (int(match[1]), int(match[2])) if match else (24, 0)
    if first > 23 or end > 24 or first == end % 24:
        raise ValueError(
            f'{text!r} is no range of hours; write it as "22-6" (from 22:00 to 6:00, local time)'
        )
    return first, end % 24


def within(text: str, hour: int) -> bool:
    """Whether `hour` (0 to 23) lies in the range `text`."""
    first, end = parse_hours(text)
    return (hour - first) % 24 < (end - first) % 24
