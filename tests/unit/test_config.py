"""Every setting is found, its source is known, and what is wrong is said with where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.config.host import HostSettings
from outbox.config.kafka_properties import OWNED, is_secret, property_of
from outbox.config.keys import KEYS
from outbox.config.settings import Settings, load
from outbox.errors import ConfigurationError

URL = "postgresql://app:hunter2@db/shop"


def settings(
    directory: Path,
    environ: dict[str, str] | None = None,
    toml: str | None = None,
    **flags: object,
) -> Settings:
    if toml is not None:
        (directory / "outbox.toml").write_text(toml, encoding="utf-8")
    return load(flags, environ or {}, directory)


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    # Given a setting in ever more places
    toml, environ = 'name = "from-file"', {"OUTBOX_RELAY_NAME": "from-variable"}
    found = [
        settings(tmp_path),
        settings(tmp_path, toml=toml),
        settings(tmp_path, environ, toml),
        settings(tmp_path, environ, toml, name="from-flag"),
    ]
    # Then the strongest wins, and is named
    assert [(s.name, s.found["name"].source) for s in found] == [
        ("default", "default"),
        ("from-file", "file outbox.toml"),
        ("from-variable", "environment OUTBOX_RELAY_NAME"),
        ("from-flag", "flag --name"),
    ]


def test_a_framework_ranks_below_flags_and_above_the_environment(tmp_path: Path) -> None:
    # Given a framework that knows a database and a broker, as the environment does
    host = HostSettings(
        {"database_url": URL, "name": "web", "kafka.bootstrap.servers": "b:1", "schema": None},
        "Django setting OUTBOX",
    )
    environ = {
        "OUTBOX_DATABASE_URL": "postgresql://elsewhere/x",
        "OUTBOX_SCHEMA": "from_environment",
        "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": "c:2",
    }
    # When it is loaded with a flag besides
    loaded = load({"name": "flag"}, environ, tmp_path, host)
    # Then the flag wins over the framework, and that over the environment, where it says anything
    assert (loaded.name, loaded.names.schema) == ("flag", "from_environment")
    assert loaded.found["database_url"].source == "Django setting OUTBOX"
    assert loaded.require_database().redacted.endswith("dbname=shop")
    assert loaded.kafka_properties() == {"bootstrap.servers": "b:1"}


def test_a_frameworks_mistakes_name_it(tmp_path: Path) -> None:
    for settings, words in (
        ({"databse_url": URL}, "Flask config: unknown setting 'databse_url'"),
        ({"lease": "soon"}, "lease \\(Flask config\\): 'soon' is not a number"),
        ({"kafka.acks": "0"}, "acks"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            load({}, {}, tmp_path, HostSettings(settings, "Flask config"))


def test_every_setting_can_be_given_in_the_file_and_by_its_variable(tmp_path: Path) -> None:
    values = {
        "database_url": URL,
        "database_password_callback": "tokens:fetch",
        "schema": "events",
        "table_prefix": "shop_",
        "name": "audit",
        "delivery": "at-least-once",
        "poll_interval": "0.5",
        "wake_up": "notify",
        "lease": "20",
        "max_messages_per_second": "500",
        "max_bytes_per_second": "1e6",
        "connect_timeout": "3",
        "drain_timeout": "4",
        "http_host": "0.0.0.0",
        "http_port": "9464",
        "stall_timeout": "90",
        "cloudevents": "binary",
        "cloudevents_source": "/shop",
    }
    assert set(values) == {key.name for key in KEYS}
    by_variable = load({}, {key.variable: values[key.name] for key in KEYS}, tmp_path)
    by_file = settings(tmp_path, toml="\n".join(f'{k} = "{v}"' for k, v in values.items()))
    assert by_variable.names == by_file.names
    for name in values:
        assert by_variable.found[name].value == by_file.found[name].value
        assert by_variable.found[name].source.startswith("environment OUTBOX_")
        assert by_file.found[name].source == "file outbox.toml"


def test_an_empty_variable_is_no_value(tmp_path: Path) -> None:
    assert settings(tmp_path, {"OUTBOX_SCHEMA": ""}).names.schema is None


def test_kafka_properties_come_from_all_places(tmp_path: Path) -> None:
    # Given properties in the file, dotted or quoted, in variables and in flags
    toml = (
        '[kafka]\nbootstrap.servers = "file:1"\n"client.id" = "c"\nsocket.keepalive.enable = true'
    )
    environ = {
        "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": "variable:1",
        "OUTBOX_KAFKA_LOG_LEVEL": "7",
        "OUTBOX_KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE": "/a.jwt",
    }
    found = settings(tmp_path, environ, toml, kafka=("bootstrap.servers=flag:1", "debug=a=b"))
    # Then each has librdkafka's own name
    assert found.kafka_properties() == {
        "bootstrap.servers": "flag:1",
        "client.id": "c",
        "socket.keepalive.enable": "true",
        "log_level": "7",
        "sasl.oauthbearer.assertion.file": "/a.jwt",
        "debug": "a=b",
    }
    assert found.found["kafka.bootstrap.servers"].source == "flag -X"
    assert found.found["kafka.log_level"].source == "environment OUTBOX_KAFKA_LOG_LEVEL"


@pytest.mark.parametrize("name", OWNED)
def test_what_is_ours_is_refused_with_the_reason_wherever_it_stands(
    tmp_path: Path, name: str
) -> None:
    for place in (
        {"kafka": (f"{name}=1",)},
        {"environ": {"OUTBOX_KAFKA_" + name.upper().replace(".", "_"): "1"}},
        {"toml": f'[kafka]\n"{name}" = "1"'},
    ):
        if "environ" in place and "_" in name:
            continue  # callbacks have no variable
        with pytest.raises(ConfigurationError) as caught:
            settings(tmp_path, **place)  # type: ignore[arg-type] # one place at a time
        (tmp_path / "outbox.toml").unlink(missing_ok=True)
        assert OWNED[name] in str(caught.value)
        assert caught.value.exit_code == 78


def test_the_partitioner_may_be_the_one_we_use(tmp_path: Path) -> None:
    assert settings(tmp_path, kafka=("partitioner=murmur2_random",)).kafka
    with pytest.raises(ConfigurationError, match="Java"):
        settings(tmp_path, kafka=("partitioner=random",))


def test_secrets_come_from_files_without_their_last_newline(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(URL + "\n")
    (tmp_path / "password").write_text("pass\n\n")
    found = settings(
        tmp_path,
        {
            "OUTBOX_DATABASE_URL_FILE": str(tmp_path / "url"),
            "OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password"),
        },
    )
    assert found.require_database().conninfo.endswith("password=hunter2 host=db dbname=shop")
    assert found.kafka["sasl.password"] == "pass\n"


@pytest.mark.parametrize(
    "environ",
    [
        {"OUTBOX_DATABASE_URL": URL, "OUTBOX_DATABASE_URL_FILE": "/x"},
        {"OUTBOX_KAFKA_SASL_PASSWORD": "a", "OUTBOX_KAFKA_SASL_PASSWORD_FILE": __file__},
    ],
)
def test_a_value_and_its_file_together_are_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="give one of them"):
        settings(tmp_path, environ)


def test_secrets_are_hidden_and_everything_else_is_shown(tmp_path: Path) -> None:
    secret = (
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    )
    flags = [f"{name}=hunter2" for name in secret] + ["ssl.key.location=/key.pem"]
    shown = settings(tmp_path, database_url=URL, kafka=flags).shown()
    assert "hunter2" not in str(shown)
    assert ("kafka.ssl.key.location", "/key.pem", "flag -X") in shown
    assert {name for name, value, _ in shown if value == "***"} == {f"kafka.{n}" for n in secret}


def test_no_text_of_the_settings_shows_the_database_password(tmp_path: Path) -> None:
    found = settings(tmp_path, database_url="host=db password='hunter 2'")
    assert "hunter" not in repr(found.database_url) + str(found.require_database())


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('databse_url = "x"', "did you mean 'database_url'"),
        ("poll-interval = 1", "did you mean 'poll_interval'"),
        ("zzz = 1", "known are database_url"),
        ("name = ", "not valid TOML"),
        ("kafka = 1", "must be a table"),
        ("[kafka]\nx = []", "kafka.x must be"),
        ("lease = 0.5", "lease (file outbox.toml): 0.5 is too short"),
        ("poll_interval = true", "not a number of seconds"),
        ('wake_up = "listen"', "use poll or notify"),
        ('drain_timeout = "soon"', "'soon' is not a number of seconds"),
        ('http_port = "tcp://10.0.0.7:80"', "http_port (file outbox.toml): 'tcp://10.0.0.7:80' is"),
        ("http_port = 65536", "65536 is not a port: use 0 to 65535"),
        ("http_port = true", "True is not a port"),
        ("connect_timeout = 0", "greater than 0"),
        ('name = "a b"', "name (file outbox.toml): relay 'a b' is not a valid name"),
        ('schema = "Not Valid"', "schema 'Not Valid'"),
        ("schema = 1", "schema (file outbox.toml): must be text"),
        ('delivery = "twice"', "use at-least-once or exactly-once"),
        ('delivery = "at-most-once"', "use at-least-once"),
        ('database_url = "mysql://u:hunter2@h/db"', "postgresql://user:password@host"),
        ('database_password_callback = "module"', "module:function"),
    ],
)
def test_what_is_wrong_in_the_file_is_said(tmp_path: Path, toml: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path, toml=toml)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_another_file_can_be_named_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('name = "other"')
    found = settings(tmp_path, toml='name = "usual"', config="other.toml")
    assert (found.name, found.found["name"].source) == ("other", "file other.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        settings(tmp_path, config="missing.toml")


def test_a_missing_database_names_all_ways_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path).require_database()
    for way in ("--database-url", "OUTBOX_DATABASE_URL", "_FILE", "outbox.toml", "PGHOST"):
        assert way in str(caught.value)


def test_a_missing_broker_names_all_ways_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path).kafka_properties()
    for way in ("-X bootstrap.servers", "OUTBOX_KAFKA_BOOTSTRAP_SERVERS", "outbox.toml"):
        assert way in str(caught.value)


def test_libpqs_variables_are_enough_and_the_weakest(tmp_path: Path) -> None:
    environ = {"PGHOST": "db"}
    found = settings(tmp_path, environ)
    assert found.require_database().conninfo == ""
    assert found.found["database_url"].source == "environment PG*"
    assert settings(tmp_path, environ, database_url=URL).require_database().conninfo


@pytest.mark.parametrize("assignment", ["bootstrap.servers", "=x", " =x"])
def test_a_flag_without_a_property_or_value_is_refused(tmp_path: Path, assignment: str) -> None:
    with pytest.raises(ConfigurationError, match="write property=value"):
        settings(tmp_path, kafka=(assignment,))


def test_callbacks_are_functions_of_a_module_beside_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])
    (tmp_path / "fetch_tokens.py").write_text("def fetch(config=None): return 'token'\nx = 1")
    found = settings(
        tmp_path,
        database_password_callback="fetch_tokens:fetch",
        kafka=("bootstrap.servers=x", "oauth_cb=fetch_tokens:fetch"),
    )
    callback = found.password_callback()
    assert callback is not None
    assert callback() == "token"
    assert found.kafka_properties()["oauth_cb"] is callback
    for name, words in (
        ("fetch_tokens:no", "imported"),
        ("nowhere:f", "imported"),
        ("fetch_tokens:x", "not a function"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            settings(tmp_path, database_password_callback=name).password_callback()


def test_nothing_is_read_but_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_RELAY_NAME", "real-environment")
    assert load({}, {}, tmp_path).name == "default"


def test_names_of_properties() -> None:
    assert property_of("OUTBOX_KAFKA_SSL_KEY_PASSWORD_FILE") == ("ssl.key.password", True)
    assert property_of("OUTBOX_KAFKA_OAUTH_CB") == ("oauth_cb", False)
    assert not is_secret("ssl.ca.location")
    assert not is_secret("sasl.username")
