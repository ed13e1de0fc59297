"""A user's project with Alembic, made of Alembic's own templates."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.pool import NullPool

#: What a user writes: a table of their own, and a line for ours.
MODELS = """\
from sqlalchemy import Column, Integer, MetaData, Table, Text
{imports}
metadata = MetaData()
Table("shop_order", metadata, Column("id", Integer, primary_key=True), Column("customer", Text))
{lines}
"""


@dataclass(frozen=True)
class Project:
    """A directory with alembic.ini and a database."""

    directory: Path
    url: str
    template: str = "generic"

    @property
    def config(self) -> Config:
        """A fresh configuration, as a run of the command makes one."""
        config = Config(self.directory / "alembic.ini", stdout=io.StringIO())
        config.output_buffer = io.StringIO()
        config.set_main_option("script_location", str(self.directory / "migrations"))
        config.set_main_option("sqlalchemy.url", self.url.replace("%", "%%"))
        return config

    def begin(self, *lines: str) -> Project:
        """Make the project; `lines` are what its models say of our tables."""
        config = self.config
        command.init(config, str(self.directory / "migrations"), template=self.template)
        env = self.directory / "migrations" / "env.py"
        env.write_text(
            env.read_text().replace(
                "target_metadata = None",
                f"import sys; sys.path.insert(0, {str(self.directory)!r})\n"
                f"from {self.models} import metadata as target_metadata",
            )
        )
        self.declare(*lines)
        return self

    @property
    def models(self) -> str:
        """A module of its own for each project, since all of them are run in one process."""
        return "models_" + re.sub(r"\W", "_", str(self.directory))

    def declare(self, *lines: str) -> None:
        """Write the models anew."""
        imports = "from outbox.alembic import add_tables" if lines else ""
        (self.directory / f"{self.models}.py").write_text(
            MODELS.format(imports=imports, lines="\n".join(lines))
        )
        sys.modules.pop(self.models, None)
        sys.dont_write_bytecode = True  # two versions within a second would share their bytecode

    def autogenerate(self) -> str:
        """Let Alembic write a revision and return its text."""
        script = command.revision(self.config, autogenerate=True)
        return Path(script.path).read_text()  # type: ignore[union-attr] # one, not several

    def revision(self, upgrade: str, downgrade: str = "pass") -> None:
        """Write a revision by hand."""
        script = command.revision(self.config)
        path = Path(script.path)  # type: ignore[union-attr] # one, not several
        body = path.read_text().replace("import sqlalchemy as sa", "import outbox.alembic")
        for placeholder, lines in (("Upgrade", upgrade), ("Downgrade", downgrade)):
            before = f'"""{placeholder} schema."""\n    '
            body = body.replace(before + "pass", before + lines.replace("\n", "\n    "))
        path.write_text(body)

    def upgrade(self, to: str = "head") -> None:
        """Run the migrations."""
        command.upgrade(self.config, to)

    def downgrade(self, to: str = "base") -> None:
        """Run them back."""
        command.downgrade(self.config, to)

    def printed(self, up: str | None = "head", down: str | None = None) -> str:
        """Return the SQL of an upgrade, or of a downgrade."""
        config = self.config
        if down:
            command.downgrade(config, down, sql=True)
        else:
            command.upgrade(config, up or "head", sql=True)
        assert isinstance(config.output_buffer, io.StringIO)
        return config.output_buffer.getvalue()

    def check(self) -> None:
        """Raise if autogenerate would write something."""
        command.check(self.config)

    def run(self, *statements: str) -> None:
        """Run SQL in the database."""
        engine = create_engine(synchronous(self.url), poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def tables(self, schema: str | None = None) -> set[str]:
        """Return the names of the tables there are."""
        engine = create_engine(synchronous(self.url), poolclass=NullPool)
        names = set(inspect(engine).get_table_names(schema=schema))
        engine.dispose()
        return names


def synchronous(url: str) -> str:
    """Return the URL for a driver that needs no loop."""
    url = re.sub(r"\+(asyncpg|psycopg2)", "+psycopg", url)
    return url.replace("+aiosqlite", "")


def plain(url: str) -> str:
    """Return the URL as our own commands take it."""
    return re.sub(r"\+\w+://", "://", url)
