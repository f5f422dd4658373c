"""Python with PYTHONMALLOC=malloc: JSON, dictionaries, objects, regular expressions, sorting, big integers."""

import json
import re


class Node:
    def __init__(self, depth):
        self.children = [Node(depth - 1) for _ in range(3)] if depth else []
        self.name = f"node {depth}"

    def size(self):
        return 1 + sum(child.size() for child in self.children)


records = [
    {"id": i, "name": f"name {i % 997}", "tags": [f"tag{i % k}" for k in range(1, 6)], "value": i / 7}
    for i in range(24000)
]
text = json.dumps(records)
for _ in range(3):
    copy = json.loads(text)
assert copy == records

groups = {}
for record in copy:
    groups.setdefault(record["name"], []).append((record["value"], tuple(record["tags"])))
ordered = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))

words = re.findall(r"[a-z]+\d*", text)
replaced = re.sub(r"tag(\d)", lambda match: f"<{match.group(1)}>", text)
counts = {}
for word in words:
    counts[word] = counts.get(word, 0) + 1

nodes = [Node(7) for _ in range(6)]
number = 1
for i in range(1, 2500):
    number *= i
print(len(ordered), len(words), len(replaced), sum(n.size() for n in nodes), len(str(number % 10**2000)))
