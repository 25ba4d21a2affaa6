"""What the command line's parser has to say, as one sentence that names the setting and what to do."""

from __future__ import annotations

import re

KINDS = {
    "float": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list of two numbers",
    "list": "a list",
    "dict": "a mapping such as {name: value}",
    "dot": "a group of settings",  # "a dot import path", that is, a class
    "NoneType": "null",
}
UNKNOWN = r"unknown setting \1: iwpo {command} --help lists them."
# jsonargparse's messages, on one line, and ours; the first that matches counts.
SENTENCES = [
    (r"unrecognized arguments: --([^\s=]+)", UNKNOWN),
    (r"unrecognized arguments: (\S+)", r"\1 belongs to no setting: write --SETTING VALUE."),
    (r"does not accept (?:option|nested key) '([^']+)'", UNKNOWN),
    (r"""Parser key "([^"]+)":.*Option '([^']+)' is not accepted""", UNKNOWN.replace(r"\1", r"\1.\2")),
    (r"ambiguous option: --(\S+)", UNKNOWN),
    (r"arguments are required: (?:train|run|demo)\.(\S+)", r"\1 is missing: give --\1 or set it in the recipe."),
    (r"argument --(\S+): expected .*argument", r"\1 has no value: write --\1 VALUE."),
    (r"subcommand.*(?:not provided|invalid choice)", "no such command: choose iwpo train, iwpo run or iwpo demo."),
    (r"File does not exist: '([^']+)'", r"the recipe \1 does not exist: check its path."),
    (r"Path is not a file: '([^']+)'", r"the recipe \1 is not a file: give a YAML file."),
    (r"(the recipe sets .* twice.*)", r"\1"),
    (
        r"parsing config: .*line (\d+), column (\d+)",
        r"the recipe is no valid YAML at line \1, column \2: correct it there.",
    ),
    (r"(?:parsing config: unacceptable character|codec can't decode)", "the recipe is not text: give a YAML file."),
    (r"Unexpected config:", "the recipe holds no settings: write lines such as data: {{path: pairs.jsonl}}."),
    (
        r'Parser key "([^"]+)":.*Unable to load config',
        r"\1 is a group of settings: set them one by one, such as --\1.NAME VALUE.",
    ),
]


def as_sentence(message: str, command: str) -> str:
    """Translate an error of jsonargparse; what is not known here keeps its first line.

    Args:
        message: the error's text, of one line or many.
        command: `train` or `demo`.
    """
    line = " ".join(message.split())
    for pattern, sentence in SENTENCES:
        if found := re.search(pattern, line):
            return found.expand(sentence.format(command=command))
    return _wrong_value(line) or message.strip().splitlines()[0]


def _wrong_value(line: str) -> str | None:
    keys = re.findall(r'Parser key "([^"]+)"', line)
    value = re.search(r"(?:Got|Given) value: (.*?)(?= - Expected|$)", line)
    if not keys or value is None:
        return None
    if choices := re.search(r"Literal\[(.*?)\]", line):
        wanted = "one of " + choices[1].replace("'", "")
    else:
        names = re.findall(r"Expected a (?:<class ')?(\w+)", line)
        # That the whole of an optional group may be null is beside the point for a part of it.
        names = names[:-1] if len(keys) > 1 else names
        wanted = " or ".join(KINDS.get(name, name) for name in names)
    return f"{'.'.join(dict.fromkeys(keys))} is {value[1]}: it must be {wanted}."
