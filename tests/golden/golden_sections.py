"""The sections of the golden record: each does something with a tree and says what came of it.

A section gets an empty folder, which is the working directory too, and returns its parts: name -> values. A
value is a NumPy array, or whatever JSON holds. Paths are relative everywhere, so that two records agree.
"""

from collections.abc import Callable
from pathlib import Path

from golden_chameleon import chameleon
from golden_commands import commands
from golden_documents import documents
from golden_generation import generation
from golden_parts import Parts
from golden_prepare import shards
from golden_trainings import trainings

SECTIONS: dict[str, Callable[[Path], Parts]] = {
    "generation": generation,
    "documents": documents,
    "shards": shards,
    "trainings": trainings,
    "chameleon": chameleon,
    "commands": commands,
}
