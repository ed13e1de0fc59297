"""Checks of the broker: that it can be reached, and at the addresses that it gives out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from outbox.doctor.check import NotChecked, Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.doctor.words import age, counted
from outbox.errors import BrokerUnavailable
from outbox.publishers.diagnosis import BrokerSilent, Cluster, obstacle, speaks_tls

#: A broker's clock that is this far ahead, in seconds, is worth a word.
_SKEW_S = 2.0

_LOOK_AT_SECURITY = "compare security.protocol and the port with the broker's `listeners`"


def silent(complaints: Mapping[str, str], *, port_speaks_tls: bool, uses_tls: bool) -> Verdict:
    """Judge what librdkafka complained of while nobody answered; by its names of errors."""
    for name, cause, advice in _CAUSES:
        if name in complaints:
            return failed(f"{cause} ({complaints[name]})", advice)
    said = complaints.get("_TRANSPORT", "")
    if port_speaks_tls and not uses_tls:
        return failed(
            "the port speaks TLS, and security.protocol is plaintext"
            + (f" ({said})" if said else ""),
            "-X security.protocol=ssl, or sasl_ssl with a user",
        )
    if "refused" in said:
        return failed(
            f"nothing listens there ({said})", "look at host and port, and whether the broker runs"
        )
    if uses_tls and "handshake" in said.lower():
        return failed(
            f"the TLS handshake fails: the port may not speak TLS ({said})", _LOOK_AT_SECURITY
        )
    if said:
        return failed(f"no broker answers ({said})", _LOOK_AT_SECURITY)
    if "_ALL_BROKERS_DOWN" in complaints:
        return failed(
            "the server closes the connection without a word: it is no Kafka, or expects TLS or a"
            " login",
            _LOOK_AT_SECURITY,
        )
    return failed(
        "a connection is taken, or waited for, and nobody answers",
        "look for a firewall, and whether the broker is overloaded or stopped",
    )


#: What librdkafka calls it, what it means, what to do; the most telling first.
_CAUSES = (
    (
        "_AUTHENTICATION",
        "the broker refuses the login",
        "look at sasl.mechanism, sasl.username and the password",
    ),
    (
        "SASL_AUTHENTICATION_FAILED",
        "the broker refuses the login",
        "look at sasl.mechanism, sasl.username and the password",
    ),
    (
        "_RESOLVE",
        "the host's name cannot be resolved",
        "look at the spelling of bootstrap.servers, and at the DNS of this machine",
    ),
    (
        "_SSL",
        "TLS fails: a port without TLS, a certificate of an unknown authority, or of another host",
        "look at the port, and give the authority with -X ssl.ca.location=FILE",
    ),
    (
        "_BAD_MSG",
        "what answers is no Kafka, or speaks TLS",
        "look at the port: Kafka's is 9092 by default, and TLS needs security.protocol=ssl",
    ),
)


def _reach(patient: Patient) -> Cluster | Verdict:
    try:
        return patient.cluster()
    except BrokerSilent as error:
        protocol = str(patient.settings.kafka.get("security.protocol", "plaintext")).lower()
        uses_tls = protocol.endswith("ssl")
        tls = not uses_tls and any(map(speaks_tls, error.addresses))
        return silent(error.complaints, port_speaks_tls=tls, uses_tls=uses_tls)


def _reached(answer: Cluster | Verdict) -> Iterator[Verdict]:
    if isinstance(answer, Verdict):
        yield answer


def _cluster_said(answer: Cluster | Verdict) -> str:
    assert isinstance(answer, Cluster)  # noqa: S101 - any verdict is said by itself
    return (
        f"cluster {answer.id or '(without an id)'} answers in {answer.round_trip_s * 1000:.0f} ms,"
        f" {counted(len(answer.brokers), 'broker')}"
    )


def addresses(obstacles: Mapping[tuple[str, int], str | None]) -> Iterator[Verdict]:
    """Judge where the broker sends its clients: what was reached is only where they begin."""
    for (host, port), problem in obstacles.items():
        if problem is not None:
            yield failed(
                f"the broker was reached, and sends its clients on to {host}:{port}, which"
                f" {problem if problem.startswith(('does', 'cannot')) else f'says: {problem}'}",
                "set the broker's `advertised.listeners` to an address that this machine reaches",
            )


def _addresses(patient: Patient) -> dict[tuple[str, int], str | None]:
    return {address: obstacle(address) for address in cluster_of(patient).brokers}


def cluster_of(patient: Patient) -> Cluster:
    """Return the cluster; where it is away, that was said and is not said again."""
    try:
        return patient.cluster()
    except BrokerUnavailable as error:
        raise NotChecked("the broker cannot be reached (see broker)") from error


def clock(ahead_s: float) -> Iterator[Verdict]:
    """Judge the newest timestamp that the broker itself has given, against this machine's time."""
    if ahead_s > _SKEW_S:
        yield warning(
            f"the broker's clock is at least {age(ahead_s)} ahead of this machine's",
            "let both machines keep time with NTP (`timedatectl status`)",
        )


def _clock(patient: Patient) -> float:
    stamped = [
        state.topic
        for _, state in patient.topics()
        if (state.settings or {}).get("message.timestamp.type") == "LogAppendTime"
    ]
    stamps = patient.broker().newest_stamps(stamped)
    if not stamps:
        raise NotChecked(
            "a broker tells its time only in a record that it stamps: no topic in use has"
            " message.timestamp.type=LogAppendTime and a record, and doctor writes none"
        )
    return max(stamps) - time.time()


CHECKS = (
    check(
        "broker",
        "broker",
        looks_at="whether the broker answers; if not, why: port, name, TLS, login",
        advice="mend `bootstrap.servers`, `security.protocol` or the login",
        probe=_reach,
        judge=_reached,
        well=_cluster_said,
    ),
    check(
        "broker-addresses",
        "broker",
        looks_at="whether the addresses that the broker gives out can be resolved and reached",
        advice="mend the broker's `advertised.listeners`",
        probe=_addresses,
        judge=addresses,
        well="all brokers can be reached where they say they are",
    ),
    check(
        "broker-clock",
        "broker",
        looks_at="the newest time that the broker stamped, against this machine's clock",
        advice="let both keep time with NTP",
        probe=_clock,
        judge=clock,
        well="the broker's clock is not ahead of this machine's; whether it is behind is not known",
    ),
)
