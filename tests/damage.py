"""Damaged files, drawn at random from sound ones."""

import copy
import random

NASTY = (
    *(None, True, False, 0, -1, 1, 10**18, 10**400, -(10**400), 0.5, -1e300, 1e300, 1e-300),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "text", "$", "$x^$", "_x", "\x00", "\n", "../..", "1e5", "true", "é", "x" * 3000),
    *([], [1], [[]], ["a", "b"], [None], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [1e300] * 3),
    *({}, {"a": 1}, {"name": "x"}, {"": {}}, {1: 2}),
)
"""Values that are seldom what a file should hold."""


class Damage:
    """Draws; the same seed gives the same ones."""

    def __init__(self, seed):
        self.draw = random.Random(seed)

    def tree(self, content):
        """A copy of nested lists and dicts in which one to three entries are wrong."""
        tree = copy.deepcopy(content)
        for _ in range(self.draw.randint(1, 3)):
            places = list(self._places(tree))
            if not places:
                return self.draw.choice(NASTY)
            node, key = self.draw.choice(places)
            kind = self.draw.choice(("replace", "replace", "replace", "delete", "add", "swap"))
            if kind == "delete":
                del node[key]
            elif kind == "add":
                value = copy.deepcopy(self.draw.choice(NASTY))
                if isinstance(node, dict):
                    node[self.draw.choice(("extra", "$", "", "agent9/kl", "é"))] = value
                else:
                    node.append(value)
            elif kind == "swap":
                other, there = self.draw.choice(places)
                node[key] = copy.deepcopy(other[there])
            else:
                node[key] = copy.deepcopy(self.draw.choice(NASTY))
        return tree

    def _places(self, node):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            yield node, key
            if isinstance(value, (dict, list)):
                yield from self._places(value)

    def bytes(self, data):
        """Bytes of which some are changed, missing, doubled or strange."""
        cut, stop = sorted(self.draw.randrange(len(data) + 1) for _ in range(2))
        strange = self.draw.choice(
            (
                b"\x00",
                b"\xff\xfe",
                b"\n",
                b'"',
                b"[" * 20000,
                b"{",
                b"- " * 500,
                b"9" * 400,
                b"&a *a",
            )
        )
        return self.draw.choice(
            (
                data[:cut],
                data[cut:],
                data[:cut] + data[stop:],
                data[:cut] + strange + data[cut:],
                data[:cut] + data[cut:stop] * 2 + data[stop:],
                data[:cut] + bytes(self.draw.randrange(256) for _ in range(9)) + data[cut + 9 :],
                b"",
                self.draw.randbytes(300),
            )
        )
