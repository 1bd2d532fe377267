"""Lets other programs write one table, each in its own way, into the files beside this one.

python tests/written/make.py        (needs pandas, polars, DuckDB, R, LibreOffice and PostgreSQL)
"""

import math
import random
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROWS = 120
TEXTS = ["plain", "with, comma", "with; semicolon", 'with "quotes"', "Zürich", "it's", "a|b", "", "#7"]


def table():
    """Returns the rows: a whole number, a large one, a float with all digits, a tiny one, a gap or a number, a text."""
    draw = random.Random(5)
    rows = []
    for number in range(ROWS):
        tiny = draw.uniform(1, 10) * 10.0 ** draw.randrange(-12, -3)
        gap = None if draw.random() < 0.2 else round(draw.uniform(-1000, 1000), 2)
        large = draw.randrange(-(10**12), 10**12)
        rows.append((number, large, draw.gauss(0, 1) * math.pi, tiny, gap, draw.choice(TEXTS)))
    return rows


NAMES = ("id", "large", "exact", "tiny", "gap", "text")


def frame():
    import pandas

    return pandas.DataFrame(table(), columns=NAMES)


def by_pandas():
    frame().to_csv(HERE / "pandas.csv")  # with its index
    frame().to_csv(HERE / "pandas-de.csv", sep=";", decimal=",", index=False, encoding="latin-1")
    frame().to_csv(HERE / "pandas.csv.gz", index=False)


def by_polars():
    import polars

    made = polars.DataFrame(table(), schema=list(NAMES), orient="row")
    made.write_csv(HERE / "polars.csv")
    made.write_csv(HERE / "polars.tsv", separator="\t", quote_style="always", include_bom=True)


def by_duckdb():
    import duckdb

    made = frame()  # DuckDB finds it by this name
    duckdb.sql("select * from made").write_csv(str(HERE / "duckdb.csv"))
    duckdb.sql(f"copy (select * from made) to '{HERE}/duckdb.csv.zst' (header, delimiter '|', compression zstd)")
    assert len(made) == ROWS


def by_r(place):
    frame().to_csv(place / "in.csv", index=False)
    program = f"""
    x <- read.csv("{place}/in.csv", encoding = "UTF-8", na.strings = c("NA"), colClasses = c(text = "character"))
    options(digits = 17, OutDec = ".")
    write.csv(x, "{HERE}/r.csv")
    write.csv2(x, "{HERE}/r-de.csv", row.names = FALSE)
    write.table(x, "{HERE}/r.txt", row.names = FALSE, qmethod = "double")
    """
    subprocess.run(["Rscript", "-e", program], check=True)


GERMAN = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Setup/L10N">
<prop oor:name="ooSetupSystemLocale" oor:op="fuse"><value>de-DE</value></prop></item>
</oor:items>
"""


def by_libreoffice(place):
    """Numbers as its cells show them: three digits of tiny ones; on a German machine with decimal commas."""
    frame().to_csv(place / "calc.csv", index=False)
    (place / "de" / "user").mkdir(parents=True)
    (place / "de" / "user" / "registrymodifications.xcu").write_text(GERMAN)
    for name, profile in (("libreoffice.csv", "en"), ("libreoffice-de.csv", "de")):
        office = ["soffice", f"-env:UserInstallation=file://{place / profile}", "--headless", "--convert-to"]
        read = [*office, "ods", "--infilter=CSV:44,34,76,1,,1033", "calc.csv"]
        write = [*office, "csv:Text - txt - csv (StarCalc):59,34,76,1", "--outdir", "out", "calc.ods"]
        for command in (read, write):
            subprocess.run(command, cwd=place, check=True, capture_output=True)
        (place / "out" / "calc.csv").replace(HERE / name)


def by_postgresql(place):
    frame().to_csv(place / "in.csv", index=False)
    script = f"""
    create temp table t (id int, large bigint, exact float8, tiny float8, gap float8, text text);
    \\copy t from '{place}/in.csv' with (format csv, header)
    \\copy t to '{HERE}/postgresql.csv' with (format csv, header)
    \\copy t to '{HERE}/postgresql.psv' with (format csv, header, delimiter '|', force_quote *)
    """
    place.chmod(0o777)
    (place / "script.sql").write_text("\n".join(line.strip() for line in script.splitlines()))
    program = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    data = place / "db"
    run = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*run, program / "initdb", "-D", data, "-A", "trust"], check=True, capture_output=True)
    options = f"-k {place} -c listen_addresses="
    subprocess.run(
        [*run, program / "pg_ctl", "-D", data, "-o", options, "-l", place / "log", "-w", "start"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        subprocess.run(["psql", "-h", place, "-U", "postgres", "-q", "-f", place / "script.sql"], check=True)
    finally:
        subprocess.run([*run, program / "pg_ctl", "-D", data, "stop"], check=True, capture_output=True)


if __name__ == "__main__":
    by_pandas()
    by_polars()
    by_duckdb()
    with tempfile.TemporaryDirectory() as directory:
        by_r(Path(directory))
        by_libreoffice(Path(directory))
        by_postgresql(Path(directory))
