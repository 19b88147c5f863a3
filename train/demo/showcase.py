"""What the playground shows of a demo's model: the things it knows, settings, and examples.

Settings are those that the demo itself samples with. Examples are what the demo found to work, if it did: the
first drawing that looks like its name, and the first held-out word that it wrote legibly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...data.render.split import DRAW, demo_concepts, sentence
from ...eval.report.page.numbers import count, percent
from .corpus import CorpusConfig
from .gallery import SAMPLING

PICTURE = SAMPLING.temperature
READ = {"then": "text", "temperature": 0, "best_of": 1, "best_by": "forward"}
GUIDANCE = 1.5
"""Of a model that was trained for it; the packaged model draws best so."""
WORDS = (
    *((16, 3, top, tall) for top, tall in ((1, 14), (1, 11), (4, 11), (4, 8))),
    *((24, 4, top, tall) for top, tall in ((1, 22), (3, 19), (2, 16), (4, 14), (6, 17), (6, 12))),
)
"""Frequent places of ink in the words of the corpus (px): height of the picture, left, top, height of ink."""
INSETS = (0, 4, 8, 12)
"""Px by which a drawing is smaller than its picture."""


def things() -> dict[str, str]:
    """The names that every demo trains on, and the prompt to draw each."""
    names = sorted(concept.name for concept in demo_concepts().train)
    return {name: sentence(DRAW, name) for name in names}


def never_seen() -> list[str]:
    """The names that every demo holds out."""
    return sorted(concept.name for concept in demo_concepts().held_out)


def fits(config: CorpusConfig) -> dict[str, list[list[int]]]:
    """The ways to fit a picture to the corpus, see ``playground.fit.fits``."""
    side, least = config.picture_size, config.smallest_drawing or config.picture_size
    return {
        "words": [list(way) for way in WORDS if way[0] in config.heights],
        "drawings": [[side, side - inset] for inset in INSETS if side - inset >= least],
    }


def presets(guidance: float) -> dict[str, dict[str, Any]]:
    """The page's styles."""

    def style(text: float, picture: float, tries: int = 1, guided: float = guidance) -> dict[str, Any]:
        by = "both" if tries > 1 else "forward"
        return {
            "temperature": text,
            "image_temperature": picture,
            "guidance": guided,
            "best_of": tries,
            "best_by": by,
        }

    return {
        "likeliest": style(0, 0),
        "balanced": style(0.3, PICTURE, 4),
        "bold": style(0.8, 0.9, guided=1),
    }


def showcase(
    config: CorpusConfig,
    lm: Mapping[str, Any],
    parameters: int,
    drawings: Sequence[Mapping[str, Any]],
    writing: Mapping[str, Any],
    reading: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """The fields of ``showcase.json``.

    Args:
        config: What the corpus was made from.
        lm: The ``model`` section of the transformer's config.
        parameters: Parameters of the transformer.
        drawings: What ``sample_gallery`` drew, sampled from ``seed``.
        writing: What ``earlyfusion eval writing`` wrote.
        reading: What ``earlyfusion eval reading`` wrote.
        seed: The run's random seed.
    """
    known = things()
    guided = float(lm.get("condition_dropout", 0)) > 0
    guidance = GUIDANCE if guided else 1.0
    alike = [n for n, one in enumerate(drawings) if one["picture"] and one["name"] == one["nearest_name"]]
    first = alike[0] if alike else 0
    prompt = drawings[first]["prompt"]
    rows = writing["rows"]
    word = next((row["text"] for row in rows if row[writing["reader"]] == row["text"]), rows[0]["text"])
    return {
        "about": f"A model of the demo with {count(parameters)} parameters, trained to draw and name "
        f"{len(known)} plants, foods and animals, and to read and write words in type. It reads "
        f"{percent(reading['exact_match'])} of the texts that it was not trained on; {len(alike)} of "
        f"{len(drawings)} drawings look like their names.",
        "good_at": "one printed word, black on white, or a drawing like an emoji",
        "guidance": guidance,
        "most_guidance": 3 if guided else 2,
        "fits": fits(config),
        "both": True,
        "turns": False,
        "preset": "balanced",
        "presets": presets(guidance),
        "draw": {"then": "image", **presets(guidance)["balanced"], "temperature": 0},
        "examples": [
            {
                "label": f"draw {prompt[0].lower()}{prompt[1:].rstrip(':')}",
                "prompt": [{"text": prompt}],
                "settings": {
                    **READ,
                    "then": "image",
                    "image_temperature": PICTURE,
                    "guidance": 1,
                    "seed": seed + first,
                },
            },
            {"label": "name this", "prompt": [{"picture": "drawing.png"}], "settings": READ},
            {"label": "read this", "prompt": [{"picture": "word.png"}], "settings": READ},
            {
                "label": f"write “{word}” in type",
                "prompt": [{"text": word}],
                "settings": {**READ, "then": "image", "image_temperature": 0, "guidance": 1},
            },
            {
                "label": "start from nothing",
                "prompt": [],
                "settings": {**presets(guidance)["likeliest"], "then": "text"},
            },
        ],
        "things": known,
        "never_seen": never_seen(),
    }
