"""What becomes of the thoughts of a reply (``<think> ... </think>``) under ``--enable-thinking``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from seqpack.text.rendered import Data, Rendered

ThoughtStyle = Literal["empty", "prompted"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply in parts: ``thought`` with its marks, and the ``rest``.

    ``prompt`` is added to the end of the prompt, ``prefix`` to the beginning of what is trained on.
    """

    prompt: str
    prefix: str
    thought: tuple[str, ...]
    rest: str

    def rendered(self) -> Rendered:
        """The thought, its marks being markup, and the rest; all of it may be shortened."""
        if not self.thought:
            return Rendered.of(self.rest)
        return Rendered.join([*self.thought, Data(self.rest)], can_be_cut=True)


@dataclass(frozen=True, slots=True)
class Thoughts:
    """The marks around a thought.

    Style ``empty`` (Qwen3): a reply without a thought gets an empty one, so that the model knows both kinds. It ends
    the prompt, where nothing is learnt from it, or under ``thinking=True`` begins the reply. ``thinking=False``
    removes the thoughts there are. Style ``prompted`` (DeepSeek-V4): the prompt itself opens a thought, or closes it
    at once; under ``thinking=True`` thoughts are kept where ``keep`` says so, else all are removed.
    """

    opening: str = "<think>\n"
    closing: str = "\n</think>\n\n"
    style: ThoughtStyle = "empty"

    def reply(self, content: str, *, thinking: bool | None, keep: bool) -> Reply:
        if self.style == "prompted":
            return self._prompted(content, opened=thinking is True and keep)
        if thinking is False:
            content = self._without(content)
        empty = "" if self._marks_in(content) else self.opening + self.closing
        prompt, prefix = ("", empty) if thinking else (empty, "")
        match = self._first().match(content)
        if not match:
            return Reply(prompt, prefix, (), content)
        blank, thought = match.groups()
        marked = (Data(blank), self.opening.strip(), Data(thought), self.closing.strip())
        return Reply(prompt, prefix, marked, content[match.end() :])

    def _prompted(self, content: str, *, opened: bool) -> Reply:
        match = self._first().match(content)
        rest = content[match.end() :].lstrip() if match else content
        if not opened:
            return Reply(self.closing, "", (), rest)
        thought = match.group(2).strip() if match else ""
        return Reply(self.opening, "", (Data(thought), self.closing), rest)

    def _without(self, content: str) -> str:
        """The text without its thoughts: those written with the blanks of the marks take the blanks with them."""
        for opening, closing in ((self.opening, self.closing), (self.opening.strip(), self.closing.strip())):
            content = re.sub(f"{re.escape(opening)}.*?{re.escape(closing)}", "", content, flags=re.DOTALL)
        return content.lstrip("\n")

    def _marks_in(self, content: str) -> bool:
        return self.opening.strip() in content or self.closing.strip() in content

    def _first(self) -> re.Pattern[str]:
        opening, closing = re.escape(self.opening.strip()), re.escape(self.closing.strip())
        return re.compile(rf"(\s*){opening}(.*?){closing}", re.DOTALL)
