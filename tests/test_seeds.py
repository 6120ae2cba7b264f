"""The shipped seeds are what they say and their answers are right; the figures of a seed set are those of its texts."""

# ruff: noqa: RUF001 - signs and letters beyond ASCII are meant

from __future__ import annotations

import csv
import html.parser
import io
import json
import random
import re
import sqlite3
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from selfinstruct import seeds
from selfinstruct.records import Objection, Record
from selfinstruct.seeds import REFERENCE, Profile, drift, pairwise_rouge_l, problems, profile, table

PATH = Path(__file__).parents[1] / "seeds" / "175.jsonl"
LINES = PATH.read_text(encoding="utf-8").splitlines()
ROWS: list[dict[str, Any]] = [json.loads(line) for line in LINES]
RECORDS = [
    Record(
        instruction=row["instruction"],
        input=instance["input"],
        output=instance["output"],
        name=row["name"],
        classification=row["is_classification"],
        task=row["id"],
    )
    for row in ROWS
    for instance in row["instances"]
]
BY_NAME = {record.name: record for record in RECORDS}
OTHER = [record for record in RECORDS if not record.classification]
PROFILE = profile(RECORDS)

KINDS = """
creative writing: animal_limerick bus_driver_toast business_name_and_slogan change_the_moral continue_mystery \
danube_postcard fifty_word_story fishing_village_proverb frost_haiku gravity_day_off_headlines houseplant_letter \
lighthouse_bedtime_story melon_return_scene moss_acrostic novel_opening_line object_riddle \
penalty_as_nature_documentary robot_vacuum_diary sea_lullaby smell_of_a_bookshop verse_with_required_words \
weather_to_noir
advice: anonymous_data cold_mountains flatmate_food friend_borrowing_money judging_accents location_history \
moving_abroad_alone multiply_by_eleven one_pan_dinner onion_tears puppy_first_nights remember_names \
slow_cooker_safety stereotype_at_dinner touch_typing_worth_it unfair_hiring_model used_bicycle_check \
vaccines_for_a_child video_interview_in_an_hour virus_or_bacterium
explaining a given subject: abbreviation alike_and_different animal_profile chess_term concept_for_goat_keeper \
describe_festival describe_tool explain_formula explain_idiom explain_joke how_food_is_made html_in_words \
interpret_proverb musical_direction python_error_meaning shell_pipeline what_happens_in_the_body \
what_organisation_does
lists: cafe_closing_checklist icebreakers inclusive_job_titles inner_tube_steps library_for_teenagers \
mend_not_replace october_fruit packing_list pet_names pros_and_cons questions_for_an_interviewer \
reading_group_questions rhymes stereotypes_about_age synonyms_by_strength tourist_queries uses_for_corks
rewriting: active_to_passive add_commas complete_analogy constructive_criticism fix_spelling friendlier_notice \
gender_neutral_sentence notes_to_sentence plain_words_for_cliches redact_message restore_vowels shorten_sentence \
split_long_sentence to_third_person translate_menu verbs_into_past
extraction: claim_reason_evidence collect_measurements count_log_errors email_to_form extract_dates \
gluten_ingredients minutes_to_promises opening_hours_table parse_address people_in_passage product_to_json \
table_to_csv tag_places visible_text
letters and business: cover_letter_from_notes deadline_will_slip decline_invitation garden_opening_speech \
next_polite_line notice_to_tenants out_of_office product_description reply_to_complaint student_reference \
thank_you_for_shift timed_agenda zoo_spokesperson
facts and conversion: celsius_to_fahrenheit currency_country element_symbol good_morning leap_year_1900 \
miles_to_kilometres novel_author_year roman_numeral slowest_spin time_zones
maths, logic, sorting: mean_median_range number_sequence order_fractions pet_logic_puzzle settle_costs \
solve_equation sort_by_length taxi_fare
code: add_type_hints count_python_lines longest_equal_run regex_for_ticket repair_median sql_for_question \
what_is_printed
summaries and titles: blog_post_title review_to_bullets shift_handover two_sentence_summary
topic, intent, spam: caller_intent fiction_or_not headline_section route_message school_subject spam_or_not \
voice_assistant_skill
sentiment, tone, ethics: contains_stereotype customer_satisfied email_formality respects_privacy \
restaurant_sentiment toxic_comment
inference: check_claim entailment same_meaning valid_conclusion verify_arithmetic
selection: better_reply fill_in_the_word heaviest_animal multiple_choice odd_one_out
syntax: part_of_speech sentence_type
suitability: film_for_a_child
"""

SAFE = """judging_accents unfair_hiring_model anonymous_data stereotype_at_dinner location_history stereotypes_about_age
inclusive_job_titles gender_neutral_sentence constructive_criticism redact_message toxic_comment respects_privacy
contains_stereotype better_reply"""
"""Seeds about bias, stereotypes, insults and privacy."""


unhurried = settings(deadline=None, max_examples=60)
"""The machine may be busy: how long an example takes proves nothing."""


def out(name: str) -> str:
    return BY_NAME[name].output


def inp(name: str) -> str:
    """The input, without the field that may name it."""
    return re.sub(r"^[A-Z]\w+: ", "", BY_NAME[name].input)


def asks(name: str, *words: str) -> None:
    """The instruction still asks for what a test goes on to check."""
    for word in words:
        assert word in BY_NAME[name].instruction


# The shipped file.


def test_every_line_has_the_keys_of_a_seed_in_their_order() -> None:
    assert PATH.read_bytes().endswith(b"}\n")
    assert b"\r" not in PATH.read_bytes()
    for place, row in enumerate(ROWS):
        assert list(row) == ["id", "name", "instruction", "instances", "is_classification"]
        assert row["id"] == f"seed_task_{place}"
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", row["name"])
        assert type(row["is_classification"]) is bool
        assert [list(instance) for instance in row["instances"]] == [["input", "output"]]


def test_a_line_is_what_json_writes_of_it_with_its_letters_as_they_are() -> None:
    assert [json.dumps(row, ensure_ascii=False) for row in ROWS] == LINES


def test_no_text_has_blanks_around_it_and_no_output_is_empty() -> None:
    for record in RECORDS:
        assert (record.instruction, record.input, record.output) == (
            record.instruction.strip(),
            record.input.strip(),
            record.output.strip(),
        )
        assert record.output
        assert "\n" not in record.instruction
        assert not re.search(r"[ \t]\n|\n{3}", record.input + record.output)


def test_names_tell_the_seeds_apart() -> None:
    assert len(BY_NAME) == len(RECORDS) == 175


def test_the_26_classification_tasks_stand_last_and_all_have_an_input() -> None:
    assert [record.classification for record in RECORDS] == [False] * 149 + [True] * 26
    assert all(record.input for record in RECORDS[149:])


def test_every_kind_of_task_has_the_count_of_the_reference() -> None:
    kinds = {kind: names.split() for kind, names in (line.split(": ") for line in KINDS.strip().split("\n"))}
    assert {kind: len(names) for kind, names in kinds.items()} == {
        "creative writing": 22,
        "advice": 20,
        "explaining a given subject": 18,
        "lists": 17,
        "rewriting": 16,
        "extraction": 14,
        "letters and business": 13,
        "facts and conversion": 10,
        "maths, logic, sorting": 8,
        "code": 7,
        "summaries and titles": 4,
        "topic, intent, spam": 7,
        "sentiment, tone, ethics": 6,
        "inference": 5,
        "selection": 5,
        "syntax": 2,
        "suitability": 1,
    }
    assert sorted(name for names in kinds.values() for name in names) == sorted(BY_NAME)


def test_fourteen_seeds_treat_bias_insults_or_privacy() -> None:
    assert len(SAFE.split()) == 14
    assert set(SAFE.split()) <= set(BY_NAME)


def test_no_mean_or_share_drifts_from_the_reference() -> None:
    assert drift(PROFILE, REFERENCE) == []


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_median_and_ninetieth_percentile_are_near_those_of_the_reference(field: str) -> None:
    this, reference = getattr(PROFILE, field), getattr(REFERENCE, field)
    assert this.p50 == pytest.approx(reference.p50, rel=0.2)
    assert this.p90 == pytest.approx(reference.p90, rel=0.2)


def test_there_is_nothing_to_fix_in_the_shipped_seeds() -> None:
    assert problems(RECORDS, draft_rules) == []


def draft_rules(record: Record) -> Objection | None:
    """What Self-Instruct asks of a draft, its 13 terms and its forbidden opening among it."""
    text = record.instruction
    terms = "images?|graphs?|pictures?|files?|maps?|draw|plot|go to"
    if not 4 <= len(text.split()) <= 150:
        return Objection(by="length", why=text)
    if re.search(rf"\b(?:{terms})\b", text, re.IGNORECASE) or text.startswith("Write a program"):
        return Objection(by="wording", why=text)
    return None if text[0].isalnum() and text[0].isascii() else Objection(by="start", why=text)


def test_no_two_instructions_are_closer_than_a_draft_may_be_to_a_seed() -> None:
    scorer = RougeScorer(["rougeL"])
    texts = [record.instruction for record in RECORDS]
    block = [row for _, rows in pairwise_rouge_l(texts) for row in rows]
    assert max(block[a][b] for a, b in combinations(range(175), 2)) <= 0.7
    for a, b in random.Random(0).sample(list(combinations(range(175), 2)), 500):
        assert block[a][b] == scorer.score(texts[a], texts[b])["rougeL"].fmeasure


def test_no_three_words_open_more_than_three_percent_of_the_seeds() -> None:
    openings = Counter(tuple(record.instruction.lower().split()[:3]) for record in RECORDS)
    assert openings.most_common(1)[0][1] <= 0.03 * 175


def test_a_classification_answers_with_a_label_that_its_seed_names() -> None:
    for record in RECORDS[149:]:
        label = rf"(?<!\w){re.escape(record.output)}(?!\w)"
        assert re.search(label, f"{record.instruction}\n{record.input}"), record


# The answers: code runs, sums add up, what was extracted is there, limits are kept.


def run(source: str, **names: Any) -> dict[str, Any]:
    exec(compile(source, "seed", "exec", dont_inherit=True), names)
    return names


def test_the_longest_run_is_right_on_every_small_list() -> None:
    longest_run: Callable[[list[int]], list[int]] = run(out("longest_equal_run"))["longest_run"]

    @unhurried
    @given(st.lists(st.integers(0, 2), max_size=12))
    def check(items: list[int]) -> None:
        runs: list[list[int]] = []
        for item in items:
            if runs and runs[-1][0] == item:
                runs[-1].append(item)
            else:
                runs.append([item])
        assert longest_run(items) == max(runs, key=len, default=[])

    check()


def test_the_broken_median_is_broken_and_the_repaired_one_is_the_median() -> None:
    broken, fixed = run(inp("repair_median"))["median"], run(out("repair_median"))["median"]
    assert broken([1, 2, 3, 4]) != statistics.median([1, 2, 3, 4])

    @unhurried
    @given(st.lists(st.integers(-50, 50), min_size=1))
    def check(values: list[int]) -> None:
        before = list(values)
        assert fixed(values) == statistics.median(values)
        assert values == before

    check()


def test_type_hints_and_docstring_leave_the_function_as_it_was() -> None:
    before, after = run(inp("add_type_hints"))["initials"], run(out("add_type_hints"))["initials"]
    assert after.__annotations__ == {"name": str, "sep": str, "return": str}
    assert len(after.__doc__.splitlines()) == 1
    for name in ("ada lovelace", "  Grace  brewster Hopper ", ""):
        assert before(name) == after(name)
        assert before(name, "") == after(name, "")


def test_the_python_script_prints_what_the_answer_says(capsys: pytest.CaptureFixture[str]) -> None:
    run(BY_NAME["what_is_printed"].input)
    assert capsys.readouterr().out.strip() == out("what_is_printed")


def test_the_traceback_comes_from_a_list_of_three() -> None:
    with pytest.raises(IndexError, match=BY_NAME["python_error_meaning"].input.rsplit(": ", 1)[1]):
        run("print(shelf[3])", shelf=[0, 1, 2])


def test_the_query_finds_the_authors_of_several_new_books() -> None:
    base = sqlite3.connect(":memory:")
    base.executescript(
        """
        CREATE TABLE authors(id, name); CREATE TABLE books(id, title, author_id, year);
        INSERT INTO authors VALUES (1, 'Zoe'), (2, 'Ann'), (3, 'Old'), (4, 'One'), (5, 'None'), (6, 'Ann');
        INSERT INTO books VALUES (1, 'a', 1, 2010), (2, 'b', 1, 2020), (3, 'c', 2, 2011), (4, 'd', 2, 2012),
          (5, 'e', 3, 2009), (6, 'f', 3, 2015), (7, 'g', 4, 2021), (8, 'h', 6, 2022);
        """
    )
    assert base.execute(out("sql_for_question")).fetchall() == [("Ann",), ("Zoe",)]
    base.close()


def test_the_ticket_expression_takes_tickets_only_and_explains_every_part() -> None:
    expression, explanation = out("regex_for_ticket").split("\n\n")
    for good in ("AB-1234", "XY-0000z"):
        assert re.search(expression, good)
    for bad in ("A-1234", "AB1234", "AB-123", "AB-12345", "ab-1234", "AB-1234Z", "AB-1234zz", "xAB-1234"):
        assert not re.search(expression, bad)
    named = [line.split(": ")[0] for line in explanation.splitlines()]
    assert named == ["^ and $", "[A-Z]{2}", "-", "[0-9]{4}", "[a-z]?"]
    assert f"^{''.join(named[1:])}$" == expression


def test_the_shell_command_counts_the_lines_of_python_scripts(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "one.py").write_text("1\n2\n")
    (tmp_path / "a b" / "two.py").write_text("1\n2\n3\n")
    (tmp_path / "not.txt").write_text("1\n")
    done = subprocess.run(["sh", "-c", out("count_python_lines")], cwd=tmp_path, capture_output=True, check=True)
    assert int(done.stdout) == 5


def test_every_shell_part_is_explained_in_order() -> None:
    parts = inp("shell_pipeline").split(" | ")
    assert re.findall(r"^- `([^`]+)`", out("shell_pipeline"), re.MULTILINE) == parts


def test_the_steps_of_the_equation_all_have_the_same_solution() -> None:
    for line in [inp("solve_equation"), *out("solve_equation").splitlines()]:
        left, right = (re.sub(r"(\d)([x(])", r"\1*\2", side) for side in line.split("="))
        solved = [x for x in range(-100, 101) if eval(left, {"x": x}) == eval(right, {"x": x})]
        assert solved == [16], line


def test_sums_and_statistics_are_right() -> None:
    numbers = [int(n) for n in inp("mean_median_range").split(", ")]
    spread = max(numbers) - min(numbers)
    assert out("mean_median_range") == (
        f"mean {sum(numbers) // len(numbers)}, median {statistics.median(numbers)}, range {spread}"
    )
    start, rate, distance = (Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", inp("taxi_fare")))
    said = [Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", out("taxi_fare"))]
    assert said == [distance, rate, distance * rate, start, start + distance * rate]
    left, right = inp("verify_arithmetic").replace("×", "*").split("=")
    assert out("verify_arithmetic") == ("correct" if eval(left) == int(right) else "incorrect")


def test_the_sequence_goes_on_by_its_rule() -> None:
    given_, found = (
        [int(n) for n in re.findall(r"\d+", text)] for text in (inp("number_sequence"), out("number_sequence"))
    )
    terms = given_ + found[:3]
    assert all(b == 2 * a - 1 for a, b in pairwise(terms))
    assert "twice the one before, minus 1" in out("number_sequence")


def test_the_fractions_ascend() -> None:
    asks("order_fractions", "ascending")
    assert out("order_fractions").split(", ") == sorted(inp("order_fractions").split(", "), key=Fraction)


def test_the_words_are_sorted_by_length_and_keep_their_order_otherwise() -> None:
    asks("sort_by_length", "shortest first", "keep their order")
    assert out("sort_by_length").split(", ") == sorted(inp("sort_by_length").split(", "), key=len)


def test_after_the_payments_everybody_has_paid_the_same() -> None:
    paid = {name: int(sum_) for name, sum_ in re.findall(r"(\w+): €(\d+)", BY_NAME["settle_costs"].input)}
    total, share = (int(n) for n in re.findall(r"€(\d+)", out("settle_costs"))[:2])
    assert (total, share) == (sum(paid.values()), sum(paid.values()) // 3)
    for payer, taker, money in re.findall(r"(\w+) pays (\w+) €(\d+)", out("settle_costs")):
        paid[payer] += int(money)
        paid[taker] -= int(money)
    assert set(paid.values()) == {share}


def test_the_puzzle_has_one_solution_and_it_is_the_answer() -> None:
    assert "Ada is allergic to fur" in inp("pet_logic_puzzle")
    assert "tortoise belongs to neither Ada nor Ben" in inp("pet_logic_puzzle")
    owners = [
        dict(zip(("Ada", "Ben", "Cleo"), pets, strict=True)) for pets in permutations(("cat", "parrot", "tortoise"))
    ]
    possible = [o for o in owners if o["Ada"] != "cat" and "tortoise" not in (o["Ada"], o["Ben"])]
    assert possible == [dict(re.findall(r"^(\w+): (\w+)$", out("pet_logic_puzzle"), re.MULTILINE))]


def test_the_trick_for_eleven_gives_the_products() -> None:
    assert (45 * 11, 78 * 11) == (495, 858)
    assert {"495", "858"} <= set(re.findall(r"\d+", out("multiply_by_eleven")))


def test_the_goats_grow_by_a_tenth() -> None:
    assert round(100 * 1.1**7) == 195
    assert {"100", "110", "195"} == set(re.findall(r"\d+", out("concept_for_goat_keeper")))


def test_conversions_are_right() -> None:
    celsius = float(inp("celsius_to_fahrenheit").split()[0])
    assert out("celsius_to_fahrenheit") == f"{celsius * 9 / 5 + 32:g} °F"
    miles = [float(line.split()[0]) for line in BY_NAME["miles_to_kilometres"].input.splitlines()]
    assert out("miles_to_kilometres").splitlines() == [f"{m * 1.609344:.1f} km" for m in miles]
    offsets = [(int(h), int(m or 0)) for h, m in re.findall(r"UTC([+-]\d+)(?::(\d+))?", BY_NAME["time_zones"].input)]
    clocks = [divmod(12 * 60 + h * 60 + m, 24 * 60) for h, m in offsets]
    times = [f"{t // 60:02}:{t % 60:02}" + (" on the next day" if day else "") for day, t in clocks]
    assert out("time_zones").splitlines() == times
    values = dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))
    digits = [values[letter] for letter in out("roman_numeral")]
    assert sum(-a if a < b else a for a, b in pairwise([*digits, 0])) == int(inp("roman_numeral"))


def test_dates_are_extracted_in_order_and_all_of_them() -> None:
    months = dict(zip(["May", "November", "August"], ("05", "11", "08"), strict=True))
    found = re.findall(r"(\d+) (May|November|August) (\d{4})", inp("extract_dates"))
    assert out("extract_dates").splitlines() == [f"{year}-{months[month]}-{int(day):02}" for day, month, year in found]
    assert len(re.findall(r"\d{4}", inp("extract_dates"))) == len(found)


def test_the_json_object_has_the_keys_and_the_facts() -> None:
    found = json.loads(out("product_to_json"))
    asks("product_to_json", ", ".join(list(found)[:2]), list(found)[2])
    assert found == {"name": "Koru enamel mug", "price": 14.5, "in_stock": 12}
    assert "Koru enamel mug" in inp("product_to_json")
    assert "€ 14.50" in inp("product_to_json")
    assert "twelve" in inp("product_to_json")


def test_the_csv_and_the_table_hold_the_same_cells() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in inp("table_to_csv").splitlines()]
    assert list(csv.reader(io.StringIO(out("table_to_csv")))) == [rows[0], *rows[2:]]


def test_the_opening_hours_are_those_of_the_sentence() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out("opening_hours_table").splitlines()]
    asks("opening_hours_table", *rows[0])
    hours = re.findall(r"from (\S+) to (\S+) on ([A-Z]\w+)(?: and ([A-Z]\w+))?", inp("opening_hours_table"))
    assert rows[2:] == [[day, opens, closes] for opens, closes, *days in hours for day in days if day]


def test_the_visible_text_is_what_a_parser_leaves_of_the_markup() -> None:
    class Text(html.parser.HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

    parser = Text()
    parser.feed(BY_NAME["visible_text"].input)
    assert parser.text == out("visible_text")
    spoken = Text()
    spoken.feed(inp("html_in_words"))
    for line in filter(None, map(str.strip, spoken.text.splitlines())):
        assert f'"{line}"' in out("html_in_words")


def test_places_are_tagged_and_nothing_else_is_touched() -> None:
    assert re.sub("</?place>", "", out("tag_places")) == inp("tag_places")
    assert re.findall("<place>(.+?)</place>", out("tag_places")) == re.findall(r"(?<!^)\b[A-Z]\w+", inp("tag_places"))


def test_the_errors_are_counted() -> None:
    counts = Counter(re.findall(r"(\w+) ERROR", BY_NAME["count_log_errors"].input))
    assert out("count_log_errors").splitlines() == [f"{name}: {n}" for name, n in counts.most_common()]


def test_what_was_extracted_stands_in_the_text_in_the_same_order() -> None:
    for name in ("people_in_passage", "gluten_ingredients", "collect_measurements"):
        places = [inp(name).find(part) for part in out(name).split(", ")]
        assert places == sorted(places), name
        assert places[0] >= 0, name
    measured = r"\d+(?:\.\d+)? (?:k?m|cm|°C)\b"
    assert out("collect_measurements").split(", ") == re.findall(measured, inp("collect_measurements"))
    for line in out("parse_address").splitlines():
        assert line.split(": ")[1] in inp("parse_address")


def test_the_form_is_filled_from_the_mail() -> None:
    form = dict(line.split(": ") for line in out("email_to_form").splitlines())
    mail = BY_NAME["email_to_form"].input
    assert list(form) == mail.split("\n")[0].removeprefix("Form: ").split(", ")
    assert form["Name"] in mail
    assert not re.search(r"\d{3}", mail)
    assert form["Phone"] == "unknown"
    assert "next Friday, the 17th" in mail
    assert (form["Date"], form["Guests"]) == ("Friday the 17th", "9")


def test_every_promise_in_the_minutes_is_listed_and_only_once() -> None:
    minutes = " ".join(BY_NAME["minutes_to_promises"].input.split())
    assert 900 <= len(minutes.split()) <= 1_100
    listed = dict(line.split(": ", 1) for line in out("minutes_to_promises").splitlines())
    promised = Counter(re.findall(r"\b(Gwen|Paulo|Ruth|Dilip|Marta|Sam|Ines) (?:will|is willing to) ", minutes))
    promised["Marta"] += minutes.count("She will place the order")
    promised["Ruth"] += minutes.count("Ruth will send them") - minutes.count("Ruth will send ")
    assert {name: len(what.split("; ")) for name, what in listed.items()} == dict(promised)
    for fact in ("by 10 March", "by the end of March", "before Easter", "16 May", "account without monthly charges"):
        assert fact in minutes
        assert fact in out("minutes_to_promises")


def test_rewritten_sentences_change_only_what_was_asked() -> None:
    assert out("add_commas").replace(",", "") == inp("add_commas")
    wrong, right = inp("fix_spelling").split(), out("fix_spelling").split()
    changed = {a: b for a, b in zip(wrong, right, strict=True) if a != b}
    assert changed == {
        "definately": "definitely",
        "recieved": "received",
        "adress,": "address,",
        "calender": "calendar",
        "seperate": "separate",
    }
    past = {"(drive)": "drove", "(swim)": "swam", "(eat)": "ate"}
    assert out("verbs_into_past") == " ".join(past.get(word, word) for word in inp("verbs_into_past").split())
    bare = [re.sub("[aeiou]", "", word) for word in out("restore_vowels").split()]
    assert bare == inp("restore_vowels").split()
    assert not re.search(r"\b(I|my|me|myself)\b", out("to_third_person"))
    assert len(out("to_third_person").split()) == len(inp("to_third_person").split())
    assert not re.search(r"\b(he|she|his|her|him)\b", out("gender_neutral_sentence"))


def test_the_redacted_message_is_the_message_with_labels_for_its_personal_details() -> None:
    redacted = BY_NAME["redact_message"].input
    for person in ("Priya", "Leyla Demir", "Jonas Weber", "Aoife"):
        redacted = redacted.replace(person, "[NAME]")
    redacted = re.sub(r"555-\d+", "[PHONE]", redacted).replace("12 Poplar Court", "[ADDRESS]")
    assert out("redact_message") == redacted


def test_the_new_moral_changes_the_last_two_sentences_alone() -> None:
    old, new = (re.split(r"(?<=\.) ", text) for text in (inp("change_the_moral"), out("change_the_moral")))
    assert old[:-2] == new[:-2]
    assert old[-1] != new[-1]
    assert old[-2] != new[-2]


def test_limits_of_length_are_kept() -> None:
    asks("fifty_word_story", "exactly fifty words")
    assert len(out("fifty_word_story").split()) == 50
    assert out("fifty_word_story").endswith(" " + inp("fifty_word_story"))
    for name, limit, said in (
        ("shorten_sentence", 10, "at most ten words"),
        ("bus_driver_toast", 79, "fewer than 80 words"),
        ("notice_to_tenants", 60, "no more than 60 words"),
        ("student_reference", 249, "below 250 words"),
        ("blog_post_title", 8, "at most eight words"),
        ("complete_analogy", 1, "one word"),
    ):
        asks(name, said)
        assert len(out(name).split()) <= limit, name
    asks("split_long_sentence", "twelve words")
    assert all(len(sentence.split()) <= 12 for sentence in out("split_long_sentence").split(". "))
    for name, count in (("two_sentence_summary", 2), ("describe_tool", 2), ("what_organisation_does", 1)):
        assert seeds.count_sentences(out(name)) == count, name
    assert seeds.count_sentences(out("product_description")) == 3
    asks("garden_opening_speech", "two minutes")
    assert 240 <= len(out("garden_opening_speech").split()) <= 320
    assert "\n" not in out("shift_handover")
    assert "\n\n" not in out("continue_mystery")


@pytest.mark.parametrize(
    ("name", "count", "number"),
    [
        ("gravity_day_off_headlines", 3, "three"),
        ("mend_not_replace", 5, "five"),
        ("tourist_queries", 8, "eight"),
        ("questions_for_an_interviewer", 3, "three"),
        ("reading_group_questions", 3, "three"),
        ("icebreakers", 3, "three"),
        ("stereotypes_about_age", 3, "three"),
        ("uses_for_corks", 4, "four"),
        ("cafe_closing_checklist", 7, "seven"),
        ("verse_with_required_words", 4, "four"),
    ],
)
def test_a_list_has_as_many_lines_as_were_asked_for(name: str, count: int, number: str) -> None:
    asks(name, number)
    assert len(out(name).splitlines()) == count


@pytest.mark.parametrize(
    ("name", "count", "number"),
    [("pet_names", 5, "five"), ("synonyms_by_strength", 5, "five"), ("rhymes", 6, "six")],
)
def test_a_list_in_one_line_has_as_many_parts_as_were_asked_for(name: str, count: int, number: str) -> None:
    asks(name, number)
    assert len(set(out(name).split(", "))) == count


def test_verses_keep_their_form() -> None:
    assert [line[0] for line in out("moss_acrostic").splitlines()] == list(inp("moss_acrostic"))
    verse = out("verse_with_required_words").lower()
    assert all(word.lower() in verse for word in inp("verse_with_required_words").split(", "))
    assert len(out("animal_limerick").splitlines()) == 5
    assert len(out("frost_haiku").splitlines()) == 3


def test_the_minutes_of_the_agenda_fill_the_meeting() -> None:
    asks("timed_agenda", "45 minutes")
    assert sum(int(n) for n in re.findall(r"\((\d+) min\)", out("timed_agenda"))) == 45
    assert sum(int(n) for n in re.findall(r"\((\d+) minutes\)", out("video_interview_in_an_hour"))) == 60
    assert sum(int(n) for n in re.findall(r"(\d+) minutes", out("one_pan_dinner"))) <= 30


def test_letters_keep_the_facts_of_their_notes() -> None:
    for name, facts in {
        "student_reference": "Thandiwe Dube|best result|first term|640|two younger brothers|tutors|environmental",
        "cover_letter_from_notes": "Kofi Mensah|alpine house|tree nursery|six years|rock garden|visitors|May|trial day",
        "out_of_office": "Yusuf Çelik|6 to 17 July|parental leave|Ella Brandt|extension 412",
        "notice_to_tenants": "Wednesday 9 April|8 a.m. to 1 p.m.|valve in the cellar|bottles|for a minute",
        "product_description": "780|25 litres|moss|rust|recycled nylon|whistle|chest strap",
        "two_sentence_summary": "Veldhaven|July|41|23|112",
    }.items():
        source = re.sub(r"\s+", " ", BY_NAME[name].input)
        for fact in facts.split("|"):
            assert fact in out(name), (name, fact)
            assert fact in source, (name, fact)
    assert len(re.findall(r"\b(sorry|apolog\w+)\b", out("reply_to_complaint"))) == 1
    assert "courier" not in out("reply_to_complaint")


# The figures.

WORDS = st.lists(st.sampled_from(["a", "bc", "def", "Given,", "write", "7", "über", "水"]), max_size=9)
TEXTS = st.tuples(WORDS, st.sampled_from(["", ".", "?", " Then?", ":\nNow."])).map(lambda p: " ".join(p[0]) + p[1])
SEEDS = st.lists(
    st.builds(
        Record,
        instruction=TEXTS,
        input=TEXTS,
        output=TEXTS,
        classification=st.sampled_from([None, True, False]),
        task=st.sampled_from(["", "t1", "t2", "t3"]),
    ),
    max_size=14,
)


@unhurried
@given(SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_unnamed_seeds_changes_no_figure(records: list[Record], rng: random.Random) -> None:
    records = [record.model_copy(update={"task": ""}) for record in records]
    shuffled = list(records)
    rng.shuffle(shuffled)
    assert profile(shuffled) == profile(records)


@unhurried
@given(SEEDS)
def test_counts_add_up(records: list[Record]) -> None:
    p = profile(records)
    assert p.classification + p.other + p.unlabelled == p.tasks == sum(p.sentences) == sum(p.final_marks.values())
    assert p.tasks <= p.instances == len(records) == p.output.n
    assert p.with_input == p.input.n >= p.classification_with_input
    assert p.similarity.compared == p.tasks
    for _, spread in p._spreads():
        assert spread.min <= spread.p10 <= spread.p25 <= spread.p50 <= spread.p75 <= spread.p90 <= spread.max
        assert spread.min <= spread.mean + 1e-9
        assert spread.mean <= spread.max + 1e-9


@unhurried
@given(SEEDS)
def test_a_set_does_not_drift_from_itself(records: list[Record]) -> None:
    p = profile(records)
    assert drift(p, p) == []
    assert all(row[1] == row[2] for row in table(p, p))


@unhurried
@given(SEEDS)
def test_a_profile_survives_json(records: list[Record]) -> None:
    p = profile(records)
    assert Profile.model_validate_json(p.model_dump_json()) == p


@unhurried
@given(st.lists(TEXTS, max_size=8))
def test_rouge_l_is_that_of_the_package_rouge_score_to_the_last_bit(texts: list[str]) -> None:
    scorer = RougeScorer(["rougeL"])
    for start, block in pairwise_rouge_l(texts):
        for row, found in enumerate(block):
            assert list(found) == [scorer.score(texts[start + row], text)["rougeL"].fmeasure for text in texts]


@pytest.mark.parametrize(
    ("a", "b", "f"),
    [
        ("Write a short poem about the ocean.", "Write a poem about the sea", 0.769231),
        ("Explain why the sea is salty", "Write a poem about the sea", 0.333333),
        ("List five uses of copper wire", "List five uses of copper", 0.909091),
        ("Summarise the e-mail", "summarise the e mail!", 1.0),
        ("a b c d e f g", "a b c d e x y", 0.714286),
        ("a b c d e f g h i j", "a b c d e f g x y z", 0.7),
        ("七転び八起き", "七転び八起き", 0.0),
    ],
)
def test_rouge_l_gives_the_golden_scores(a: str, b: str, f: float) -> None:
    _, block = next(pairwise_rouge_l([a, b]))
    assert block[0][1] == block[1][0] == pytest.approx(f, abs=5e-7)


def test_blocks_of_rows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profile(RECORDS).similarity
    monkeypatch.setattr(seeds, "_ROWS", 7)
    cut = profile(RECORDS).similarity
    assert cut.model_dump() == pytest.approx(whole.model_dump())
    assert problems([*RECORDS, RECORDS[3].model_copy(update={"task": "again"})])[0].neighbour == "seed_task_3"


def test_more_words_than_fit_below_the_surrogates_are_still_told_apart() -> None:
    many = " ".join(f"w{n}" for n in range(0xD900))
    _, block = next(pairwise_rouge_l([many, "w55296 w55297", "w55297 w55296"]))
    assert block[1][2] == 0.5
    assert block[0][1] == pytest.approx(2 * 2 / (0xD900 + 2))


def test_a_large_set_is_sampled_in_the_same_way_whatever_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "SAMPLE", 40)
    sampled = profile(RECORDS).similarity
    assert sampled.compared == 40
    assert profile(RECORDS[::-1]).similarity == sampled
    assert ("instructions compared for similarity", "40", "175") in table(profile(RECORDS), REFERENCE)


def test_texts_without_a_latin_letter_or_digit_are_counted_because_novelty_cannot_see_them() -> None:
    assert profile([Record(instruction="翻译这句话。"), Record(instruction="Say it.")]).wordless == 1


def test_instances_of_one_task_are_one_instruction_and_several_outputs() -> None:
    task = [Record(instruction="Add the numbers.", input=n, output=n, task="t", classification=False) for n in "123"]
    p = profile(task)
    assert (p.tasks, p.instances, p.instruction.n, p.input.n, p.output.n) == (1, 3, 1, 3, 3)
    assert problems(task) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Name a river", 1),
        ("Name a river.", 1),
        ("Is it? Say why.", 2),
        ("Round 3.5 up.", 1),
        ('Answer "Yes." or "No." now.', 3),
        ("说明原因。举一个例子。", 2),
        ("", 1),
    ],
)
def test_sentences_end_where_a_blank_follows_their_mark(text: str, count: int) -> None:
    assert seeds.count_sentences(text) == count


def test_drift_names_the_means_and_shares_that_are_off() -> None:
    long = [record.model_copy(update={"output": record.output + " so" * 60}) for record in RECORDS]
    assert [line.split(":")[0] for line in drift(profile(long), REFERENCE)] == [
        "output, words",
        "output, classification, words",
        "output, other, words",
    ]
    bare = [record.model_copy(update={"input": ""}) for record in RECORDS]
    found = drift(profile(bare), REFERENCE)
    assert "input, words: none, reference 35.5" in found
    assert "with input: 0%, reference 71%" in found
    assert drift(profile(bare), REFERENCE, mean=10, share=1) == [line for line in found if ": none" in line]


# What to fix.


def seed(instruction: str, task: str, output: str = "x", label: bool | None = False) -> Record:
    return Record(instruction=instruction, output=output, task=task, classification=label)


def test_each_problem_names_its_seed_its_rule_and_its_neighbour() -> None:
    found = problems(
        [
            seed("a b c d e f g", "one"),
            seed("a b c d e x y", "two"),
            seed("Name three rivers of Peru.", "three", output=" "),
            seed("Name three rivers of Peru.", "four"),
            seed("", "five"),
            seed("Draw me a boat, please", "six", label=None),
            seed("a b c d e f g h i j", "seven"),
            seed("a b c d e f g 1 2 3", "eight"),
        ],
        lambda record: Objection(by="wording", why="asks for a drawing") if "Draw" in record.instruction else None,
    )
    assert [(p.task, p.by, p.neighbour) for p in found] == [
        ("two", "near-duplicate", "one"),
        ("three", "empty output", ""),
        ("four", "duplicate", "three"),
        ("five", "empty instruction", ""),
        ("six", "wording", ""),
        ("six", "label", ""),
        ("seven", "near-duplicate", "one"),
        ("eight", "near-duplicate", "one"),
    ]
    assert found[0].score == pytest.approx(0.714286, abs=5e-7)


def test_a_score_of_exactly_seven_tenths_is_no_problem() -> None:
    assert problems([seed("a b c d e f g h i j", "s"), seed("a b c d e f g 1 2 3", "t")]) == []


@unhurried
@given(SEEDS)
def test_near_duplicates_are_found_for_every_pair_above_the_threshold_and_no_other(records: list[Record]) -> None:
    records = [record.model_copy(update={"task": f"t{n}"}) for n, record in enumerate(records)]
    found = {(p.neighbour, p.task) for p in problems(records) if p.by == "near-duplicate"}
    scorer = RougeScorer(["rougeL"])
    firsts = {record.instruction.strip(): record for record in reversed(records)}
    wanted = {
        (a.task, b.task)
        for a, b in combinations(sorted(firsts.values(), key=lambda r: int(r.task[1:])), 2)
        if scorer.score(a.instruction, b.instruction)["rougeL"].fmeasure > 0.7
    }
    assert found == wanted


def test_seeds_without_an_id_are_named_by_their_place() -> None:
    assert [p.task for p in problems([seed("Say it.", ""), seed("Say it.", "")])] == ["seed 2"]


def test_instances_that_disagree_on_the_label_are_named() -> None:
    found = problems([seed("Say it.", "t", label=True), seed("Say it.", "t", label=False, output="")])
    assert [(p.by, p.why.split()[0]) for p in found] == [("empty output", "1"), ("label", "its")]
