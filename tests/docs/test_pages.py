"""What finds commands, paths and headings in pages finds them, and what is not a command it leaves."""

from pages import blocks, inline, shell_commands

SAMPLE = """\
# A page

```sh
make demo     # a comment; with `marks`
X=1 .venv/bin/earlyfusion sample --out runs/apple \\
    --then image "A red apple: $5 & more" && echo done > log.txt
```
Text with `earlyfusion eval reading`, `make test`, `earlyfusion` and ``` `ticks` ```.

<!-- not run -->

```console
$ earlyfusion demo --budget huge
output, not a command
$ earlyfusion info runs/demo/model
```

```
tokenizers/     text.py (BPE)  nothing.py  documents.py
fusion_lm/
├── model.py    the transformer
└── missing/
train/
  configs/
    lm.yaml     and so on
Makefile
```
"""


def test_blocks_and_commands_are_found() -> None:
    made = list(blocks(SAMPLE))
    assert [(b.language, b.line, b.run) for b in made] == [
        ("sh", 4, True),
        ("console", 13, False),
        ("", 19, True),
    ]
    assert [(c.words, c.line, c.run) for c in shell_commands(SAMPLE)] == [
        (("make", "demo"), 4, True),
        (
            ("earlyfusion", "sample", "--out", "runs/apple", "--then", "image", "A red apple: $5 & more"),
            5,
            True,
        ),
        (("echo", "done", "log.txt"), 5, True),
        (("earlyfusion", "demo", "--budget", "huge"), 13, False),
        (("earlyfusion", "info", "runs/demo/model"), 15, False),
    ]
    assert inline(SAMPLE) == [("earlyfusion", "eval", "reading"), ("make", "test")]
