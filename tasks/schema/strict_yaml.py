"""YAML as YAML means it: a mapping in which a key stands twice is refused, where PyYAML keeps the last value without a word.

Imports nothing from the project.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"
"""Tag of `<<`: what it merges gives way to the mapping's own keys, so that nothing is lost where it stands twice."""


class RepeatedKeysError(yaml.YAMLError):
    """Keys that stand more than once in one mapping.

    Attributes:
        faults: one for each key: its lines, and its path from the document's root.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


def load(text: str) -> Any:
    """The value of a YAML document.

    Keys are equal where YAML's values are (`no` and `false`, `1` and `1.0`) or where they are written alike (`1` and `"1"`).

    Raises:
        RepeatedKeysError: with every key that stands more than once in its mapping, at any depth.
        yaml.YAMLError: the text is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if faults := list(_repeated(loader, root, "", set())):
            raise RepeatedKeysError(faults)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _repeated(loader: yaml.SafeLoader, node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias: its anchor was looked at already
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _repeated(loader, item, f"{path}.{number}".removeprefix("."), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[Hashable, int] = {}  # a key, as its value and as it is written, to its place in the mapping
    lines: dict[int, list[int]] = defaultdict(list)
    paths = [f"{path}.{key.value if isinstance(key, yaml.ScalarNode) else '?'}".removeprefix(".") for key, _ in node.value]
    for place, (key, _) in enumerate(node.value):
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            forms: tuple[Hashable, ...] = (("value", loader.construct_object(key)), ("text", key.value))
            same = next((first[form] for form in forms if form in first), place)
            first |= {form: same for form in forms if form not in first}
            lines[same].append(key.start_mark.line + 1)
    for place, found in lines.items():
        if len(found) > 1:
            times = "twice" if len(found) == 2 else f"{len(found)} times"
            yield f"lines {', '.join(map(str, found[:-1]))} and {found[-1]}: {paths[place]} stands {times}"
    for (_, value), below in zip(node.value, paths, strict=True):
        yield from _repeated(loader, value, below, seen)
