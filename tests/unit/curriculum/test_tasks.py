"""The curriculum's examples: repeatable, true, and apart from the held-out ones."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from curriculum import calling, copying, forms, questions, talk, telling, world
from curriculum.brief import BRIEF, BRIEF_RELATIONS
from curriculum.draw import HELD_OUT, TRAIN, Draw, reserved
from curriculum.example import NOT_SAID, contains, right
from curriculum.mix import KINDS, STAGES, examples, held_out
from curriculum.untold import UNTOLD, UNTOLD_OF_PEOPLE
from curriculum.wide import WIDE
from curriculum.words import BY_KIND, PEOPLE
from curriculum.world import EASY, HARD, RELATIONS

SPLITS = (TRAIN, HELD_OUT)


def stories(split: str, count: int = 200, level: world.Level = HARD) -> list[tuple[world.Story, Draw]]:
    draws = [Draw(f"s{i}", split, level.words) for i in range(count)]
    return [(world.make_story(draw, level), draw) for draw in draws]


def test_an_example_depends_on_its_own_seed_alone():
    many = [example.record() for example in examples(STAGES[2], 3, 50)]
    again = [example.record() for example in examples(STAGES[2], 3, 30)]
    assert again == many[:30]
    assert [example.record() for example in examples(STAGES[2], 4, 30)] != again


def test_words_are_of_one_kind_each_and_none_twice():
    for kind, words in BY_KIND.items():
        assert len(set(words)) == len(words), kind
        assert all(re.fullmatch(r"[A-Z]?[a-z]+", word) for word in words), kind


@pytest.mark.parametrize("split", SPLITS)
def test_stories_say_what_their_facts_are_and_no_value_is_that_of_two(split):
    for story, _ in stories(split):
        assert story.facts
        by_kind = Counter((fact.relation.kind, fact.value) for fact in story.facts)
        assert max(by_kind.values()) == 1
        for fact in story.facts:
            assert contains(story.text, fact.value)
            assert contains(story.text, fact.person.name)
            assert not fact.relation.colour or contains(story.text, f"{fact.colour} {fact.value}")


def test_held_out_facts_join_words_that_are_never_joined_in_training():
    trained = {(fact.person.name, fact.value) for story, _ in stories(TRAIN, 400) for fact in story.facts}
    tested = {(fact.person.name, fact.value) for story, _ in stories(HELD_OUT, 400) for fact in story.facts}
    assert not any(reserved(*pair) for pair in trained)
    assert all(reserved(*pair) for pair in tested)
    assert not trained & tested


def told(question: questions.Question, story: world.Story) -> list[world.Fact]:
    """The facts that answer a question, by its words alone."""
    forms_ = [(fact, form) for fact in story.facts for form in (*fact.relation.asks, *fact.relation.who)]
    return [fact for fact, form in forms_ if fact.fill(form) == question.text]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_what_the_text_says(split):
    kinds = Counter()
    for story, draw in stories(split, 300):
        for question in questions.ask(draw, story, HARD):
            kinds[question.kind] += 1
            facts = told(question, story)
            if question.kind == "not-in-text":
                assert not facts
                assert question.answer == NOT_SAID
                continue
            assert all(contains(question.answer, word) for word in question.wanted)
            assert not any(contains(question.answer, word) for word in question.unwanted)
            if question.kind in ("value", "who"):
                assert len(facts) == 1, question
                assert contains(question.answer, facts[0].value)
                assert contains(question.answer, facts[0].person.name)
    assert set(kinds) == {"value", "who", "colour", "yes", "no", "not-in-text"}
    assert 0.2 < kinds["not-in-text"] / kinds.total() < 0.4


def test_no_question_asks_for_something_that_two_relations_call_the_same():
    for things in (False, True):
        plain = [form for relation in RELATIONS if relation.things == things for form in relation.asks]
        assert len(set(plain)) == len(plain)


@pytest.mark.parametrize("split", SPLITS)
def test_calls_name_a_tool_of_the_list_with_arguments_from_the_users_words(split):
    names = Counter()
    for i in range(300):
        example = calling.make(Draw(f"t{i}", split), HARD)
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in example.tools}
        for asked, answered in zip(example.messages, example.messages[1:], strict=False):
            for each in answered.get("tool_calls", []):
                name, arguments = each["function"]["name"], each["function"]["arguments"]
                names[name] += 1
                assert list(arguments) == schemas[name]["required"]
                assert all(contains(asked["content"], str(value)) for value in arguments.values())
        assert example.messages[-1]["tool_calls"]
    assert len(names) >= 20


def test_invented_tools_of_the_held_out_tasks_are_new():
    def made(split: str) -> set[str]:
        return {calling.invented(Draw(f"i{i}", split)).name for i in range(400)}

    assert made(TRAIN).isdisjoint(made(HELD_OUT))


def test_json_has_the_fields_that_are_asked_for_in_their_order():
    for i in range(300):
        example = forms.make(Draw(f"j{i}"), HARD)
        value = json.loads(example.messages[-1]["content"])
        assert list(value) == example.schema["required"]
        assert all(contains(example.messages[0]["content"], str(each)) for each in value.values())
        kinds = {"integer": int, "string": str}
        for key, each in value.items():
            assert isinstance(each, kinds[example.schema["properties"][key]["type"]])


def test_counting_and_copying_are_right():
    for i in range(400):
        for asked, answer in pairs(copying.count(Draw(f"c{i}"), HARD)):
            if sum_ := re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", asked):
                assert int(answer) == eval("".join(sum_.groups()))
            elif row := re.match(r"Count from (\d+) to (\d+)", asked):
                assert [int(n) for n in answer.split(", ")] == list(range(int(row[1]), int(row[2]) + 1))
            elif asked.startswith(("How many words", "Count the words")):
                assert int(answer) == len(asked.partition(": ")[2].split(", "))
        for asked, answer in pairs(copying.copy(Draw(f"c{i}"), HARD)):
            words = asked.partition(": ")[2]
            if asked.startswith(("Repeat", "Copy")):
                assert answer == words
            elif "JSON list" in asked:
                assert json.loads(answer) == words.split(", ")
            elif asked.startswith("Say this backwards"):
                assert answer.split(", ") == words.split(", ")[::-1]


def pairs(example) -> list[tuple[str, str]]:
    contents = [message["content"] for message in example.messages]
    return list(zip(contents[::2], contents[1::2], strict=True))


def test_a_table_is_looked_up():
    for i in range(200):
        example = copying.lookup(Draw(f"l{i}"), HARD)
        table = example.messages[0]["content"]
        for asked, answer in pairs(example):
            name = re.search(r"([A-Z][a-z]+)\?$", asked)[1]
            assert answer in table if f"{name}:" in table else answer == NOT_SAID


def test_stories_have_the_characters_that_are_asked_for():
    for i in range(200):
        example = telling.make(Draw(f"x{i}"), HARD)
        story = example.messages[-1]["content"]
        assert right(example.test_record(), story, [])
        assert "{" not in story
        plain = re.sub(r'"[^"]*" (said|asked)', "", story)
        assert not re.search(r"\b[aA] [aeiou]|[.!?] [a-z]", plain), story


def test_talk_keeps_a_way_of_asking_for_the_held_out_tasks():
    for asks, answer, wanted in talk.INTENTS:
        assert len(set(asks)) == len(asks)
        assert all(contains(answer, word) for word in wanted)
        if len(asks) >= talk.KEPT:
            kept = talk.ways(asks, held_out=True)
            assert kept
            assert not set(kept) & set(talk.ways(asks, held_out=False))
    every = [ask.rstrip("?.!").lower() for asks, _, _ in talk.INTENTS for ask in set(asks)]
    repeated = {ask for ask, n in Counter(every).items() if n > 1}
    assert repeated <= {"hello", "hi", "thank you", "bye"}  # with and without a mark, of one intent each


def test_every_command_that_the_model_explains_exists():
    from llamakit.cli import SECTIONS

    known = {name for section in SECTIONS.values() for name in section}
    planned = {"train", "finetune"}  # until they land
    named = {name for _, answer, _ in talk.INTENTS for name in re.findall(r"llamakit ([a-z]+)", answer)}
    assert named <= known | planned


def test_levels_are_as_hard_as_they_say():
    easy = [story for story, _ in stories(TRAIN, 100, EASY)]
    assert max(len(story.people) for story in easy) <= 2
    assert all(person.name in PEOPLE for story in easy for person in story.people)
    assert not any(" He " in story.text or " She " in story.text for story in easy)
    hard = [story for story, _ in stories(TRAIN, 100, HARD)]
    assert any(person.name not in PEOPLE for story in hard for person in story.people)
    assert {person.thing for story in hard for person in story.people} == {True, False}


def test_sentences_begin_with_a_capital():
    for story, draw in stories(TRAIN, 100):
        asked = questions.ask(draw, story, HARD)
        for text in (story.text, *(q.text for q in asked), *(q.answer for q in asked)):
            assert re.match("[A-Z]", text)
            assert not re.search(r"[.?] [a-z]|, The ", text), text


@pytest.mark.parametrize("level", [HARD, WIDE, BRIEF], ids=["hard", "wide", "brief"])
def test_all_kinds_are_judged_and_their_own_answers_are_right(level):
    found = Counter()
    for example in held_out(5, 20, level):
        record = json.loads(json.dumps(example.test_record()))
        found[example.kind] += 1
        last = record["messages"][-1]
        functions = [call["function"] for call in last.get("tool_calls", [])]
        calls = [(function["name"], json.dumps(function["arguments"])) for function in functions]
        assert right(record, last["content"], calls), record
        assert not right(record, "No idea.", [])
        assert not right(record, last["content"], [*calls, ("other", "{}")])
    usual = set(KINDS) - {"text", "unknown"} | {"not-in-text"}
    brief = {"question", "not-in-text"}
    assert set(found) == (brief if level is BRIEF else usual | {"unknown"} if level is WIDE else usual)
    assert set(found.values()) == {20}


def test_brief_texts_get_questions_that_no_text_answers_and_questions_about_anybody():
    asked = [
        (story, question)
        for story, draw in stories(TRAIN, 300, BRIEF)
        for question in questions.ask(draw, story, BRIEF)
        if question.kind == "not-in-text"
    ]
    assert any(question.text.startswith("Why") for _, question in asked)
    assert any(re.search(r"(is|did|does) the \w+", question.text) for _, question in asked)
    for story, question in asked:
        answers = {fact.fill(each) for fact in story.facts for each in (*fact.relation.asks, *fact.relation.who)}
        assert question.text not in answers, story.text


def test_every_kind_of_value_has_questions_that_no_text_answers():
    assert set(UNTOLD) == {relation.kind for relation in BRIEF_RELATIONS}
    fact = {"p": "Tom", "v": "key", "a": "a key"}
    for form in (*UNTOLD_OF_PEOPLE, *(each for several in UNTOLD.values() for each in several)):
        assert form.format(**fact).endswith("?")
