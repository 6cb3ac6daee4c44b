"""A conversation with a model, or with two that answer blind side by side while a person votes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import randbelow

from posttrain.config import ChatConfig
from posttrain.console import Console
from posttrain.console.talk import Talk, open_talk
from posttrain.counted import counted
from posttrain.errors import DataError
from posttrain.recipes import setup
from posttrain.recipes.scoring import check_policy
from posttrain.recipes.streaming import Streaming
from posttrain.recipes.votes import Votes, shown_order
from posttrain.types import Completion, Message, PromptRecord, SamplingSpec

HELP = (
    "/new  begin again",
    "/system TEXT  begin again with this system message; without a text, with none",
    "/undo  take back the last message and its answer, and the vote between two",
    "/save FILE  add the conversation to a file, as a row that sft reads",
    "/quit  end, as the end of input does",
)
_VOTES = {"1": 0, "2": 1, "=": None, "s": None}
_LETTERS = ("A", "B")


class Voice:
    """A model that answers messages."""

    def __init__(self, path: str, config: ChatConfig, where: setup.Machine, console: Console, talk: Talk) -> None:
        self.path = path
        codec = setup.load_codec(path, config.template, console)
        start = setup.load_start(path, codec, where, console)
        self._codec = codec
        self._config = config
        self._streaming = Streaming(codec, config.stop, talk.piece)
        self._answer = setup.sampler(
            start.policy, codec, start.context, where, tell=console.say, heard=self._streaming.hear
        )

    def answer(self, messages: Sequence[Message], number: int) -> Completion:
        """The answer to a conversation, told while it comes. `number` makes its samples those of no other answer.

        Raises DataError where the model has no room for an answer, or its template takes no such conversation.
        """
        config = self._config
        spec = SamplingSpec(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_k=config.top_k,
            top_p=config.top_p, min_p=config.min_p, stop=config.stop, seed=config.seed, round=number,
        )  # fmt: skip
        prompt = self._codec.prompt(PromptRecord(id="the conversation", messages=tuple(messages)))
        [done] = self._answer([prompt], spec)
        self._streaming.end(done.text)
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A message of the person, the answer that the conversation goes on with, and item and event of the vote."""

    said: Message
    answer: Message
    vote: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chatted:
    """What came of it: how many messages were answered, and the votes by model."""

    answered: int
    votes: dict[str, int]


def chat(config: ChatConfig, *, console: Console, talk: Talk | None = None) -> Chatted:
    """Answers messages until there are no more; with `against` two models answer, and votes go to the ranking store."""
    setup.quiet_libraries()
    paths = [config.model, *([] if config.against is None else [config.against])]
    for path in paths:
        setup.context_of(path)
        check_policy(path)
    talk = talk or open_talk()
    if config.against is not None and "seed" not in config.model_fields_set:
        # The same coin in every conversation would soon tell who is shown first.
        config = config.model_copy(update={"seed": randbelow(2**31)})
        console.say(
            f"seed {config.seed}, which is kept with the votes; --seed {config.seed} gives the same order again"
        )
    votes = None if config.against is None else Votes.checked(Path(config.db), config.annotator, config.seed)
    where = setup.machine(config, console)
    voices = [Voice(path, config, where, console, talk) for path in paths]
    conversation = _Conversation(config, voices, votes, talk)
    talk.hint("write a message; /help shows what else there is")
    while (line := talk.ask("\nyou  ")) is not None and line != "/quit":
        if line:
            conversation.take(line)
    told = {} if votes is None else votes.told
    if votes is not None and told:
        console.finish(f"votes in {config.db}: " + ", ".join(f"{name} {count:,}" for name, count in told.items()))
    return Chatted(answered=conversation.answered, votes=told)


class _Conversation:
    """The messages so far, and what a line of the person does with them."""

    def __init__(self, config: ChatConfig, voices: Sequence[Voice], votes: Votes | None, talk: Talk) -> None:
        self._seed = config.seed
        self._system = config.system
        self._voices = voices
        self._votes = votes
        self._talk = talk
        self._exchanges: list[Exchange] = []
        self.answered = 0

    @property
    def messages(self) -> list[Message]:
        """The system message, where there is one, and all that was said."""
        first = [] if self._system is None else [Message(role="system", content=self._system)]
        return first + [message for each in self._exchanges for message in (each.said, each.answer)]

    def take(self, line: str) -> None:
        """Does what a line says: a command, or a message that is answered."""
        if not line.startswith("/"):
            self._answered(line)
            return
        name, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/new": self._new,
            "/system": self._begin_with,
            "/undo": self._undo,
            "/save": self._save,
            "/help": self._help,
        }
        if name in commands:
            commands[name](rest.strip())
        else:
            self._talk.line(f"there is no {name}; there are {', '.join([*commands, '/quit'])}")

    def _answered(self, line: str) -> None:
        said = Message(role="user", content=line)
        number = self.answered
        try:
            if self._votes is None:
                self._talk.hint("")
                text, vote = self._voices[0].answer([*self.messages, said], number).text, None
                self._talk.line("")
            else:
                text, vote = self._compared([*self.messages, said], number, self._votes)
        except DataError as error:
            if not self._talk.at_terminal:
                raise
            self._talk.line(f"error: {error}\n  the message is left out; /new begins again")
            return
        self.answered += 1
        self._exchanges.append(Exchange(said=said, answer=Message(role="assistant", content=text), vote=vote))

    def _compared(self, messages: Sequence[Message], number: int, votes: Votes) -> tuple[str, tuple[str, int] | None]:
        """The answer that was voted better, and the vote: both models answer, in an order that says nothing of them.

        The first one shown where the two are tied, or nobody voted, as of two that are the same.
        """
        order = shown_order(self._seed, number)
        shown: list[tuple[str, Completion]] = []
        for letter, place in zip(_LETTERS, order, strict=True):
            self._talk.piece(f"{letter}  ")
            shown.append((self._voices[place].path, self._voices[place].answer(messages, number)))
            self._talk.line("")
        if shown[0][1].text == shown[1][1].text:
            self._talk.line("both say the same")
            return shown[0][1].text, None
        choice = self._vote()
        if choice is None:
            return shown[0][1].text, None
        vote = votes.add(messages, shown, _VOTES[choice], skipped=choice == "s")
        return shown[_VOTES[choice] or 0][1].text, vote

    def _vote(self) -> str | None:
        """One of 1, 2, = and s; None at the end of input."""
        while (line := self._talk.ask("better: 1 (A), 2 (B), = tie, s skip  ")) is not None:
            if line in _VOTES:
                return line
            self._talk.line(f"{line!r:.40} is no vote; write 1, 2, = or s")
        return None

    def _new(self, rest: str) -> None:
        self._exchanges.clear()
        self._talk.hint("a new conversation")

    def _begin_with(self, text: str) -> None:
        self._system = text or None
        self._new("")

    def _undo(self, rest: str) -> None:
        if not self._exchanges:
            self._talk.line("there is nothing to take back")
            return
        last = self._exchanges.pop()
        if last.vote is not None and self._votes is not None:
            self._votes.undo(*last.vote)
        self._talk.hint(f"taken back: {last.said.content}")

    def _save(self, name: str) -> None:
        if not name or not self._exchanges:
            self._talk.line("nothing is said yet" if name else "/save needs the name of a file, such as chats.jsonl")
            return
        row = {"messages": [{"role": each.role, "content": each.content} for each in self.messages]}
        try:
            with Path(name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            self._talk.line(f"{name}  cannot be written: {(error.strerror or str(error)).lower()}")
        else:
            self._talk.line(f"{counted(len(self._exchanges), 'message')} with answers added to {name}")

    def _help(self, rest: str) -> None:
        for line in HELP:
            self._talk.line(line)
