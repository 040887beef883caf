#!/usr/bin/env python3
"""Checks the rules of docs/style.md that a program can check, in docs and comments.

usage: scripts/prose.py [FILE...]          print each finding as FILE:LINE; without FILE, all tracked files
       scripts/prose.py --wrap FILE...     wrap the prose of comments and Markdown at 100 columns
       scripts/prose.py --count            print only numbers of findings, by the first two parts of each path

Rules: a sentence has at most 25 words, a line of prose at most 100 columns, and the words in WORDS
do not appear. Code, tables, headings and links are not prose.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

WIDTH = 100
MOST_WORDS = 25
# Constructions that hide the noun. Each stands for a rule of docs/style.md, "Sentences".
WORDS = re.compile(
    r"\b(what (?:is|was|are|were|the|it|has|a)|who|whoever|whose|whom|nobody|somebody|tells?|told"
    r"|of which|of that|that of|those of|by which|in which|but for|says?|said)\b",
    re.IGNORECASE,
)
# Sentences do not end after these.
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|vs|approx|incl|cf|sect|no|min|max)\.$", re.IGNORECASE)

COMMENT = re.compile(r"^(\s*)(//[/!]?|\*|/\*\*?|#)(?:(\s+)(.*?)(\s*\*/)?|(\s*\*/)?)$")
LIST_ITEM = re.compile(r"^(\s*)([-*+]|\d+[.)])\s+")
NOT_PROSE = re.compile(r"^\s*(#{1,6}\s|\||<|\[[^\]]+\]:\s+\S+\s*$|@|SPDX|usage:|shellcheck )")


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    files = [Path(name) for name in listed.stdout.split("\0") if name]
    return [f for f in files if is_checked(f) and f.is_file()]


def is_checked(file):
    if file.parts[:2] == ("fuzz", "corpus"):
        return False
    return file.suffix in {".rs", ".c", ".h", ".md", ".sh"} or file.name == "Makefile"


class Block:
    """Lines of one paragraph, with the text that stands before each of them."""

    def __init__(self, first, prefix, following):
        self.first, self.prefix, self.following, self.lines = first, prefix, following, []

    @property
    def text(self):
        return " ".join(self.lines)


def markdown_blocks(lines):
    """Paragraphs of Markdown from (number, prefix, text)."""
    found, block, fenced = [], None, False
    for number, prefix, text in lines:
        stripped = text.strip()
        if stripped.startswith("```"):
            fenced = not fenced
        # A tab inside a line aligns the columns of a table in a C comment.
        is_table = "\t" in stripped
        if fenced or stripped.startswith("```") or not stripped or is_table or NOT_PROSE.match(text):
            block = None
            continue
        item = LIST_ITEM.match(text)
        indent = re.match(r"\s*", text).group()
        if item:
            block = Block(number, prefix + item.group(), prefix + " " * len(item.group()))
            found.append(block)
            text = text[item.end():]
        elif block is None:
            if len(indent) >= 4:
                continue
            block = Block(number, prefix + indent, prefix + indent)
            found.append(block)
        block.lines.append(text.strip())
    return found


def comment_groups(lines, hash_comments):
    """Runs of comment lines of one kind, as (number, prefix, text)."""
    group, kind, in_block = [], None, False
    for number, line in enumerate(lines, 1):
        match = COMMENT.match(line)
        found = None
        if match:
            indent, marker = match.group(1), match.group(2)
            if marker.startswith("//"):
                found = (indent, marker)
            elif marker.startswith("/*") and not hash_comments:
                in_block, found = "*/" not in line, (indent, "/*")
            elif marker == "*" and in_block:
                found = (indent[:-1] if indent.endswith(" ") else indent, "/*")
                in_block = "*/" not in line
            elif marker == "#" and hash_comments and not line.startswith("#!"):
                found = (indent, "#")
        if found != kind and group:
            yield group
            group = []
        kind = found
        if found:
            marker, text = match.group(2), match.group(4) or ""
            if marker.startswith("/*") or match.group(5) or match.group(6):
                # One line that opens or closes a comment is checked, but never wrapped.
                prefix = None
            else:
                prefix = match.group(1) + marker + (match.group(3) or " ")[:1]
            extra = (match.group(3) or " ")[1:]
            group.append((number, prefix, extra.expandtabs() + text))
    if group:
        yield group


def blocks(file, lines):
    if file.suffix == ".md":
        yield from markdown_blocks((n, "", line) for n, line in enumerate(lines, 1))
        return
    hash_comments = file.suffix == ".sh" or file.name == "Makefile"
    for group in comment_groups(lines, hash_comments):
        yield from markdown_blocks(group_with_prefixes(group))


def group_with_prefixes(group):
    usual = next((prefix for _, prefix, _ in group if prefix), None)
    return [(number, prefix if prefix is not None else usual or "", text) for number, prefix, text in group]


def plain(text):
    """Text in which code, links and emphasis count as one word."""
    text = re.sub(r"``[^`]+``|`[^`]*`", "X", text)
    text = re.sub(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", text)
    return re.sub(r"<?https?://\S+>?", "X", text).replace("**", "").replace("*", "")


def sentences(text):
    start = 0
    for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)", text):
        piece = text[start:match.end()]
        if not ABBREVIATIONS.search(piece):
            yield piece.strip()
            start = match.end()
    if text[start:].strip():
        yield text[start:].strip()


def words(sentence):
    return [word for word in sentence.split() if re.search(r"\w", word)]


def findings(file, lines):
    for block in blocks(file, lines):
        text = plain(block.text)
        for sentence in sentences(text):
            count = len(words(sentence))
            if count > MOST_WORDS:
                yield block.first, f"{count} words: {sentence[:60]}..."
        for offset, line in enumerate(block.lines):
            for match in WORDS.finditer(plain(line)):
                yield block.first + offset, f'"{match.group()}"'
            number = block.first + offset
            width = len(lines[number - 1].expandtabs(8 if file.suffix in {".c", ".h"} else 4))
            if width > WIDTH and " " in line.strip() and "](" not in line and "://" not in line:
                yield number, f"{width} columns"


def wrap(file, lines):
    """The lines, with each paragraph that a line is too long in wrapped anew."""
    result, done = [], 0
    tab = 8 if file.suffix in {".c", ".h"} else 4
    for block in blocks(file, lines):
        last = block.first + len(block.lines) - 1
        own = lines[block.first - 1:last]
        is_open = any("/*" in line or "*/" in line for line in own)
        if is_open or all(len(line.expandtabs(tab)) <= WIDTH for line in own):
            continue
        result += lines[done:block.first - 1] + filled(block, tab)
        done = last
    return result + lines[done:]


def filled(block, tab):
    # A code span or link is not broken.
    tokens = re.findall(r"(?:`[^`]*`|\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?|\S)+", block.text)
    line, out = block.prefix + tokens[0], []
    for token in tokens[1:]:
        if len((line + " " + token).expandtabs(tab)) > WIDTH:
            out.append(line)
            line = block.following + token
        else:
            line += " " + token
    return out + [line]


def count_of(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def main(arguments):
    options = {argument for argument in arguments if argument.startswith("-")}
    if options & {"-h", "--help"}:
        print(__doc__.strip())
        return 0
    if unknown := options - {"--wrap", "--count"}:
        print(f"prose.py: unknown option {' '.join(sorted(unknown))}: see --help", file=sys.stderr)
        return 2
    files = [Path(argument) for argument in arguments if not argument.startswith("-")] or tracked()
    counts, markers, total = Counter(), 0, 0
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            print(f"prose.py: cannot read {file}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            return 2
        lines = text.split("\n")
        if "--wrap" in options:
            wrapped = "\n".join(wrap(file, lines))
            if wrapped != text:
                file.write_text(wrapped, encoding="utf-8")
            continue
        for number, finding in sorted(findings(file, lines)):
            total += 1
            markers += finding.startswith('"')
            counts[str(Path(*file.parts[:2]))] += 1
            if "--count" not in options:
                print(f"{file}:{number}: {finding}")
    if "--count" in options:
        for folder, count in counts.most_common():
            print(f"{count:6} {folder}")
    if total:
        print(f"prose.py: {count_of(total, 'finding')} ({count_of(markers, 'word')}): see docs/style.md", file=sys.stderr)
    return 1 if total else 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe. Python would flush again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
