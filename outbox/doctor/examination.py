"""Make the checks; one that fails never hides the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from outbox.doctor.check import Check, Finding, NotChecked, Verdict, failed, skipped, warning
from outbox.doctor.patient import Patient
from outbox.doctor.registry import CHECKS
from outbox.errors import (
    BrokerUnavailable,
    ConfigurationError,
    DatabaseUnavailable,
    MissingExtra,
    SchemaMissing,
)
from outbox.store.diagnosis import NotLearned

#: Why a question may have no answer, and none of it a mistake: a right, a package, a server.
_NO_ANSWER = (NotLearned, ConfigurationError, MissingExtra, BrokerUnavailable)


def examine(patient: Patient, ignored: Collection[str] = ()) -> Iterator[Finding]:
    """Yield the findings of every check that applies to the database, as they are made.

    `ignored`: ids of checks to leave out.
    """
    dialect = patient.settings.require_database().dialect
    for check in CHECKS:
        if check.database in (None, dialect) and check.id not in ignored:
            for verdict in verdicts(check, patient):
                yield Finding(check.id, check.group, verdict.outcome, verdict.found, verdict.advice)


def verdicts(check: Check, patient: Patient) -> list[Verdict]:
    """Return what a check says, or why it says nothing."""
    try:
        return check.examine(patient)
    except NotChecked as reason:
        return [skipped(str(reason), reason.advice)]
    except DatabaseUnavailable as error:
        patient.away = check.id
        return [failed(str(error), _advice(str(error)))]
    except SchemaMissing:
        return [skipped("the tables are not there (see schema)")]
    except _NO_ANSWER as error:
        return [skipped(str(error))]
    except Exception as error:  # noqa: BLE001 - a mistake of ours must not hide other findings
        return [
            warning(
                f"the check itself failed: {type(error).__name__}: {error}",
                "report this as a bug of outbox-relay",
            )
        ]


def _advice(error: str) -> str:
    if "statement pooling mode" in error:
        return "let the pooler use pool_mode = transaction, or session, for this database"
    return "look at the database, then run this again"
