"""Estimate high and low water at a harbour from a handful of harmonic constituents."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Constituent:
    name: str
    amplitude: float  # metres
    speed: float  # degrees an hour
    phase: float  # degrees

    def height(self, hours: float) -> float:
        return self.amplitude * math.cos(math.radians(self.speed * hours - self.phase))


HARBOUR = [
    Constituent("M2", 1.84, 28.984, 112.0),
    Constituent("S2", 0.61, 30.000, 158.5),
    Constituent("K1", 0.11, 15.041, 190.2),
]


def heights(start: datetime, hours: int, step_minutes: int = 10):
    """Yield (time, height) pairs, one for each step."""
    steps = hours * 60 // step_minutes
    for step in range(steps):
        offset = step * step_minutes / 60
        yield start + timedelta(hours=offset), sum(c.height(offset) for c in HARBOUR)


def turning_points(series):
    previous = list(series)
    for before, here, after in zip(previous, previous[1:], previous[2:]):
        if before[1] < here[1] >= after[1]:
            yield "high", here
        elif before[1] > here[1] <= after[1]:
            yield "low", here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    args = parser.parse_args()
    start = datetime(2026, 3, 1)
    for kind, (moment, height) in turning_points(heights(start, args.hours)):
        print(f"{moment:%H:%M}  {kind:<4}  {height:+.2f} m")


if __name__ == "__main__":
    main()
