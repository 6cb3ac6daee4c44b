"""What bad rows say, and layouts that have to be asked for: the whole message, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import Kind

TALK = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
GOLDEN: dict[str, tuple[str | bytes, Kind, str]] = {
    "missing content": (
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "contnet": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages[1].content is missing (keys: role, contnet ← typo?)\n  fix: add it",
    ),
    "a call of a tool without text": (
        (
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            'null, "tool_calls": [{"id": 1}]}, {"role":"tool","content":"5"}, {"role": '
            '"assistant", "content": "Hello"}]}'
        ),
        "chat",
        "rows.jsonl:1  messages[1].tool_calls would be left out: only the text in content is trained\n"
        "  fix: write it into content as the model should spell it, or delete the row",
    ),
    "null content": (
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": null}]}',
        "chat",
        "rows.jsonl:1  messages[1].content is null\n  fix: fill it, or delete the row",
    ),
    "empty user": (
        '{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages[0].content is empty\n  fix: fill it, or delete the row",
    ),
    "two assistants": (
        (
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            '"Hello"}, {"role": "assistant", "content": "Hello"}]}'
        ),
        "chat",
        "rows.jsonl:1  messages[1] and messages[2] are both by the assistant\n"
        "  fix: join them into one, or put the user's message between them",
    ),
    "assistant first": (
        (
            '{"messages": [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": '
            '"Hi"}, {"role": "assistant", "content": "Hello"}]}'
        ),
        "chat",
        "rows.jsonl:1  messages[0] is by the assistant, and nothing is asked before it\n"
        '  fix: put the user\'s message before it, or set "train": false in it',
    ),
    "system only": (
        '{"messages": [{"role": "system", "content": "Be."}, {"role": "assistant", "content": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages[1] is by the assistant, and nothing is asked before it\n"
        '  fix: put the user\'s message before it, or set "train": false in it',
    ),
    "only assistant": (
        '{"messages": [{"role": "assistant", "content": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages has an answer but no question\n  fix: put the user's message before it",
    ),
    "no messages": (
        '{"messages": []}',
        "chat",
        'rows.jsonl:1  messages is empty\n  fix: write [{"role": "user", "content": …}, …]',
    ),
    "role number": (
        '{"messages": [{"role": 1, "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}',
        "chat",
        ("rows.jsonl:1  messages[0].role is 1, which is no role\n  fix: give one of system, user, assistant, tool"),
    ),
    "role missing": (
        '{"messages": [{"rol": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages[0].role is missing (keys: rol ← typo?, content)\n"
        "  fix: give one of system, user, assistant, tool",
    ),
    "message text": (
        '{"messages": ["Hi", {"role": "assistant", "content": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages is a list whose first item is text, expected a list of messages\n"
        '  fix: here give {"messages": [{"role": "user", "content": …}, {"role": "assistant", '
        '"content": …}]}',
    ),
    "a part that is an image": (
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, '
            '{"role": "assistant", "content": "Hello"}]}'
        ),
        "chat",
        "rows.jsonl:1  messages[0].content has a part of type 'image_url', and only text is read\n"
        "  fix: delete the row",
    ),
    "train text": (
        ('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x", "train": "false"}]}'),
        "chat",
        "rows.jsonl:1  messages[1].train is text, expected true or false\n  fix: write it without quotes",
    ),
    "Role upper": (
        '{"messages": [{"role": "User", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}',
        "chat",
        "rows.jsonl:1  messages[0].role is 'User', which is no role\n  fix: did you mean 'user'?",
    ),
    "sharegpt role": (
        '{"conversations": [{"from": "humn", "value": "Hi"}, {"from": "gpt", "value": "x"}]}',
        "chat",
        "rows.jsonl:1  conversations[0].from is 'humn', which is no role\n  fix: did you mean 'human'?",
    ),
    "a prompt that is a number": (
        '{"prompt": 5}',
        "prompt",
        ('rows.jsonl:1  prompt is a number (5), expected text or messages\n  fix: write it as a string: "prompt": "5"'),
    ),
    "completion number": (
        '{"prompt": "2+2", "completion": 4}',
        "chat",
        "rows.jsonl:1  completion is a number (4), expected text or messages\n"
        '  fix: write it as a string: "completion": "4"',
    ),
    "answers list": (
        '{"question": "2+2", "answer": ["4"]}',
        "chat",
        "rows.jsonl:1  answer is a list whose first item is text, expected text or messages\n"
        '  fix: here give {"messages": [{"role": "user", "content": …}, {"role": "assistant", '
        '"content": …}]}',
    ),
    "alpaca empty": (
        '{"instruction": "Hi", "input": "", "output": ""}',
        "chat",
        "rows.jsonl:1  output is empty\n  fix: fill it, or delete the row",
    ),
    "columns named differently": (
        '{"query": "What?", "reply": "That."}',
        "chat",
        "rows.jsonl  no layout of chat data fits its columns: query, reply\n"
        "  fix: is it prompt/response, with 'query' \"What?\" as 'prompt', 'reply' \"That.\" as "
        "'response'? then give --data '{path: rows.jsonl, columns: {prompt: query, response: reply}}'",
    ),
    "columns in another language": (
        '{"frage": "What?", "antwort": "That."}',
        "chat",
        "rows.jsonl  no layout of chat data fits its columns: frage, antwort\n"
        "  fix: is it prompt/response, with 'frage' \"What?\" as 'prompt', 'antwort' \"That.\" as "
        "'response'? then give --data '{path: rows.jsonl, columns: {prompt: frage, response: antwort}}'",
    ),
    "winner": (
        '{"query": "What?", "winner": "That.", "loser": "This."}',
        "ranked",
        "rows.jsonl  no layout of ranked data fits its columns: query, winner, loser\n"
        "  fix: is it pairs (chosen, rejected), with 'query' \"What?\" as 'prompt', 'winner' \"That.\" "
        "as 'chosen', 'loser' \"This.\" as 'rejected'? then give --data '{path: rows.jsonl, columns: "
        "{prompt: query, chosen: winner, rejected: loser}}'",
    ),
    "answers ratings": (
        '{"question": "What?", "answers": ["a", "b"], "ratings": [1, 2]}',
        "ranked",
        "rows.jsonl  no layout of ranked data fits its columns: question, answers, ratings\n"
        "  fix: is it ranked (responses, scores), with 'answers' [\"a\", \"b\"] as 'responses', "
        "'ratings' [1, 2] as 'scores'? then give --data '{path: rows.jsonl, columns: {responses: "
        "answers, scores: ratings}}'",
    ),
    "prompts for chat": (
        '{"prompt": "Hi"}',
        "chat",
        "rows.jsonl  this looks like prompt data (prompt), expected chat data\n"
        '  fix: ppo, online-dpo or sample takes this file; here give {"messages": [{"role": "user", "content": '
        '…}, {"role": "assistant", "content": …}]}',
    ),
    "text for ranked": (
        '{"text": "Hi"}',
        "ranked",
        "rows.jsonl  this looks like text data (text), expected ranked data\n"
        '  fix: sft takes this file; here give {"prompt": …, "chosen": …, "rejected": …} or '
        '{"prompt": …, "responses": […], "ranks": […]}',
    ),
    "text for chat": (
        '{"text": "Hi"}',
        "chat",
        "rows.jsonl  this looks like text data (text), expected chat data\n"
        '  fix: sft takes this file; here give {"messages": [{"role": "user", "content": …}, '
        '{"role": "assistant", "content": …}]}',
    ),
    "ranks inf": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, "inf"]}',
        "ranked",
        "rows.jsonl:1  ranks[1] is inf, which ranks nothing\n  fix: write null for what is not ranked",
    ),
    "ranks float": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 1.5]}',
        "ranked",
        "rows.jsonl:1  ranks[1] is 1.5, expected a whole number from 1\n"
        "  fix: 1 is best, equal is a tie, null is not ranked",
    ),
    "ranks bool": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [true, false]}',
        "ranked",
        "rows.jsonl:1  ranks[0] is true, expected a number\n  fix: give a number, or null",
    ),
    "ranks text": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": ["first", "second"]}',
        "ranked",
        'rows.jsonl:1  ranks[0] is "first", expected a number\n  fix: give a number, or null',
    ),
    "ranks neg": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [-1, 1]}',
        "ranked",
        "rows.jsonl:1  ranks[0] is -1, expected a whole number from 1\n"
        "  fix: 1 is best, equal is a tie, null is not ranked",
    ),
    "ranks all null": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [null, null]}',
        "ranked",
        "rows.jsonl:1  0 of 2 responses ranked, expected at least 2\n  fix: rank more, or delete the row",
    ),
    "one response": (
        '{"prompt": "Hi", "responses": ["a"], "ranks": [1]}',
        "ranked",
        "rows.jsonl:1  responses has 1, expected at least 2\n  fix: give more answers, or delete the row",
    ),
    "twins": (
        '{"prompt": "Hi", "responses": ["a", "b", "a"], "ranks": [1, 2, 3]}',
        "ranked",
        ("rows.jsonl:1  responses 0 and 2 are the same text in different ranks\n  fix: rank them equal, or drop one"),
    ),
    "an empty response": (
        '{"prompt": "Hi", "responses": ["a", ""], "ranks": [1, 2]}',
        "ranked",
        "rows.jsonl:1  responses[1] is empty\n  fix: fill it, or delete the row",
    ),
    "scores wrong": (
        '{"prompt": "Hi", "responses": ["a", "b"], "scores": [1]}',
        "ranked",
        "rows.jsonl:1  2 responses but 1 scores\n  fix: give one for each response; null is not ranked",
    ),
    "both ranks and scores": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 2], "scores": [1, 2]}',
        "ranked",
        "rows.jsonl:1  the rows can be read in 2 ways\n"
        '  ranked (responses, ranks): user "Hi" → 1: "a"; 2: "b"\n'
        '  ranked (responses, scores): user "Hi" → 1: "b"; 2: "a"\n'
        "  fix: name the columns that are meant:\n"
        "       for ranked (responses, ranks) give --data '{path: rows.jsonl, columns: {responses: "
        "responses, ranks: ranks}}'\n"
        "       for ranked (responses, scores) give --data '{path: rows.jsonl, columns: "
        "{responses: responses, scores: scores}}'",
    ),
    "chosen null": (
        '{"prompt": "Hi", "chosen": "a", "rejected": null}',
        "ranked",
        "rows.jsonl:1  rejected is null, expected text or messages\n"
        '  fix: here give {"prompt": …, "chosen": …, "rejected": …} or {"prompt": …, "responses": '
        '[…], "ranks": […]}',
    ),
    "prompt by assistant": (
        '{"prompt": [{"role": "assistant", "content": "Hello"}], "chosen": "a", "rejected": "b"}',
        "ranked",
        ("rows.jsonl:1  prompt ends with the assistant, expected the user\n  fix: move the answer out of the prompt"),
    ),
    "prompt by system": (
        '{"prompt": [{"role": "system", "content": "x"}], "chosen": "a", "rejected": "b"}',
        "ranked",
        "rows.jsonl:1  prompt ends with the system, expected the user\n  fix: add the user's message",
    ),
    "answers to different questions": (
        (
            '{"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            '"Hello"}], "rejected": [{"role": "user", "content": "Ho"}, {"role": "assistant", '
            '"content": "Hello"}]}'
        ),
        "ranked",
        "rows.jsonl:1  chosen and rejected begin differently, and differ in more than their last message\n"
        "  fix: use one prompt",
    ),
    "answers that repeat the question": (
        (
            '{"prompt": "What is the capital of France?", "chosen": "What is the capital of '
            'France? Paris", "rejected": "What is the capital of France? Rome"}'
        ),
        "ranked",
        ("rows.jsonl:1  chosen and rejected both begin with prompt\n  fix: take the text of prompt out of them"),
    ),
    "an empty turn of a dialogue": (
        '{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: ", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: x"}',
        "ranked",
        "rows.jsonl:1  chosen: turn 2 of the dialogue is empty\n  fix: fill it, or delete the row",
    ),
    "weight neg": (
        '{"prompt": "Hi", "chosen": "a", "rejected": "b", "weight": -1}',
        "ranked",
        "rows.jsonl:1  weight is -1, expected 0 or more\n  fix: exchange chosen and rejected instead",
    ),
    "python repr": (
        "{'text': 'a'}",
        "text",
        "rows.jsonl:1  broken JSON in column 2: expecting property name enclosed in double quotes\n"
        "  fix: this is Python's spelling of a row; write rows with json.dumps",
    ),
    "surrogate": (
        '{"text": "a\\ud83d"}',
        "text",
        "rows.jsonl:1  \\ud83d is half of a character (a lone surrogate)\n"
        "  fix: the text was cut within it; take it out",
    ),
    "two objects": (
        '{"text": "a"}{"text": "b"}',
        "text",
        "rows.jsonl:1  broken JSON in column 14: extra data\n"
        "  fix: mend the line; every line is one JSON object on its own",
    ),
    "trailing comma": (
        '{"text": "a",}',
        "text",
        "rows.jsonl:1  broken JSON in column 14: expecting property name enclosed in double quotes\n"
        "  fix: mend the line; every line is one JSON object on its own",
    ),
    "rows of another layout": (
        "".join(f'{{"prompt": "q{n}", "completion": "a"}}\n' for n in range(20)) + f"{TALK}\n" * 3,
        "chat",
        "rows.jsonl:21  this row has another layout: messages; most have: prompt/completion   (2 "
        "more rows have this)\n"
        "  fix: convert it, or give it a file of its own",
    ),
    "a misspelt column in some rows": (
        "".join(f'{{"instruction": "q{n}", "output": "a"}}\n' for n in range(10))
        + '{"instuction": "x", "input": "", "output": "b"}\n' * 3,
        "chat",
        "rows.jsonl:11  instruction is missing (keys: instuction ← typo?, input, output)   (2 more "
        "rows have this)\n"
        "  fix: rename the column",
    ),
    "big number": (
        '{"prompt": "2**99", "answer": 123456789012345678901234567890}',
        "prompt",
        ("rows.jsonl:1  answer is 1.23457e+29, beyond what is read exactly\n  fix: write it as text, in quotes"),
    ),
    "Chinese in GB18030": (
        '{"text": "你好，世界。我们今天去公园吧"}'.encode("gb18030"),
        "text",
        "rows.jsonl:1  byte 0xc4 in column 11 is not UTF-8\n"
        "  fix: it is probably GB18030: iconv -f GB18030 -t UTF-8 rows.jsonl > new.rows.jsonl",
    ),
    "curly quotes of Windows": (
        b'{"text": "it\x92s \x93fine\x94 caf\xe9"}',
        "text",
        "rows.jsonl:1  byte 0x92 in column 13 is not UTF-8\n"
        "  fix: it is probably CP1252: iconv -f CP1252 -t UTF-8 rows.jsonl > new.rows.jsonl",
    ),
    "Cyrillic of Windows": (
        '{"text": "Привет, мир. Как дела сегодня"}'.encode("cp1251"),
        "text",
        "rows.jsonl:1  byte 0xcf in column 11 is not UTF-8\n"
        "  fix: find out its encoding, then: iconv -f ENCODING -t UTF-8 rows.jsonl > new.rows.jsonl",
    ),
    "UTF-16 without a mark": (
        '{"text": "hello world"}'.encode("utf-16-le"),
        "text",
        "rows.jsonl  the file is UTF-16LE, expected UTF-8\n"
        "  fix: iconv -f UTF-16LE -t UTF-8 rows.jsonl > new.rows.jsonl",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_a_bad_row_says_where_what_and_how_to_mend_it(case: str, tmp_path: Path) -> None:
    content, kind, expected = GOLDEN[case]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read(file, kind)
    assert str(caught.value).replace(f"{tmp_path}/", "") == expected
