"""A generator of realistic input files with awkward rows; it is deterministic."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

__all__ = ("write_examples",)

_COLUMNS = (
    "external_profile_id",
    "external_created_at",
    "email",
    "first_name",
    "last_name",
    "birthday",
    "country",
    "custom_attributes.plan",
    "custom_attributes.signup_source",
    "device_info.platform",
    "device_info.locale",
)
_PEOPLE = (
    ("Jane", "Doe", "US", "en-US"),
    ("José", "Muñoz", "ES", "es-ES"),
    ("Zoë", "Müller", "DE", "de-DE"),
    ("Søren", "Ångström", "DK", "da-DK"),
    ("Łukasz", "Żółć", "PL", "pl-PL"),
    ("Ирина", "Петрова", "KZ", "ru-KZ"),
    ("美咲", "佐藤", "JP", "ja-JP"),
    ("محمد", "العلي", "EG", "ar-EG"),
    ("Nguyễn", "Thị Hoa", "VN", "vi-VN"),
    ("D'Arcy", 'O"Neil, Jr.', "IE", "en-IE"),
    ("👩‍💻 Ada", "", "GB", "en-GB"),
)
_ID_FORMS = ("user_{0}", "u/{0}", "app?id={0}", "team#{0}", "100%-{0}", "a b {0}", "x+{0}&y")
_PLANS = ("trial", "monthly", "annual", "", "lifetime")
_SOURCES = ("organic", "ads", "friend, told me", "", "import:2024")
_ABSENT = 40


def write_examples(folder: Path, *, count: int = 5000, erased: int = 1500) -> tuple[Path, Path]:
    """
    Write ``profiles.csv`` with `count` users, and ``erase.txt`` with the ids to erase.

    The ids are `erased` of the users and 40 that belong to no user. Two rows of the CSV file are
    broken.
    """
    random_number = random.Random(7)  # noqa: S311  the same file every time, no secret
    folder.mkdir(parents=True, exist_ok=True)
    profiles, ids = folder / "profiles.csv", folder / "erase.txt"
    rows = [_profile(number, random_number) for number in range(count)]
    with profiles.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number, row in enumerate(rows):
            writer.writerow(_broken(row) if number in {count // 3, count // 2} else row)
    chosen = random_number.sample([row[0] for row in rows], erased)
    absent = [f"nobody_{number}" for number in range(_ABSENT)]
    mixed = random_number.sample(chosen + absent, erased + _ABSENT)
    ids.write_text("".join(f"{each}\n" for each in mixed), encoding="utf-8")
    return profiles, ids


def _profile(number: int, random_number: random.Random) -> list[str]:
    first, last, country, locale = random_number.choice(_PEOPLE)
    form = _ID_FORMS[number % len(_ID_FORMS)] if number % 10 == 0 else _ID_FORMS[0]
    tag = "+news" if number % 4 == 0 else ""
    day, hour = random_number.randint(1, 28), random_number.randint(0, 23)
    platform = random_number.choice(("iOS", "Android", ""))
    return [
        form.format(100000 + number),
        f"2026-{number % 12 + 1:02}-{day:02}T{hour:02}:30:00Z",
        f"user{number}{tag}@example.com",
        first,
        last,
        f"{1950 + number % 55}-{number % 12 + 1:02}-{day:02}" if number % 3 else "",
        country if number % 5 else "",
        random_number.choice(_PLANS),
        random_number.choice(_SOURCES),
        platform,
        locale if platform else "",
    ]


def _broken(row: list[str]) -> list[str]:
    return row[:-3] if row[6] else [*row[:6], "usa", *row[7:]]


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]))
