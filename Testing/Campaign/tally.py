"""What a part of the campaign tried, and what came out wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """The counts of one part.

    Attributes:
        part: in words.
        wrong: a line for each try that came out wrong.
    """

    part: str
    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    def check(self, right: bool, what: str) -> None:
        """Counts a try.

        Args:
            what: was tried, for the list of what is wrong.
        """
        self.tried += 1
        if not right:
            self.wrong.append(what)
