"""No spelling of a secret, and no telling part of one, is shown; ordinary words are."""

import base64
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dags.operators import retries
from dags.operators.step_log import StepLog
from tasks.errors import LoraflowError, SettingsError
from tasks.secrets.redaction import HIDDEN, LONG, VARIED, in_one_line, without_secrets
from tasks.secrets.variables import strip_secrets
from tasks.settings import CHECKOUT, header_value

TOKEN = "hf_qWErtYuiOpAsdFGhjKl"

SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "repr": lambda secret: repr(secret)[1:-1],
    "ascii": lambda secret: ascii(secret)[1:-1],
    "repr of bytes": lambda secret: repr(secret.encode())[2:-1],
    "repr of a repr": lambda secret: repr(repr(secret)[1:-1])[1:-1],
    "JSON": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "JSON in ASCII": lambda secret: json.dumps(secret)[1:-1],
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret)[1:-1])[1:-1],
    "JSON of PHP": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "address": quote,
    "address, all quoted": lambda secret: quote(secret, safe=""),
    "address, partly quoted": lambda secret: quote(secret, safe="/:@+=&"),
    "address, in lower case": lambda secret: re.sub("%..", lambda found: found[0].lower(), quote(secret)),
    "form": quote_plus,
    "address in an address": lambda secret: quote(quote(secret)),
    "address in a repr": lambda secret: repr(quote(secret))[1:-1],
    "every character quoted": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "HTML": html.escape,
    "latin-1 header": lambda secret: secret.encode().decode("latin-1"),
}

SIGNS = some.sampled_from("abzAZ019 _-+/=%\\\"'&;:@.,~\n\té€ж😀")
SECRETS = some.text(SIGNS, min_size=LONG, max_size=60).map(lambda text: f"k3{text.strip()}Z9").filter(lambda text: len(text) >= LONG)


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(secret=SECRETS)
def test_a_secret_in_any_spelling_is_hidden_whole(spelling: str, secret: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_TOKEN", f"{secret}\n")
        assert without_secrets(f"« {SPELLINGS[spelling](secret)} »") == f"« {HIDDEN} »"


@given(SECRETS, some.text(max_size=20), some.text(max_size=20), some.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_a_secret_in_base64_is_hidden_whatever_stands_beside_it(
    secret: str, before: str, after: str, encode: Callable[[bytes], bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_PASSWORD", secret)
        neighbours = len(f"{before}:{after}".encode(errors="replace"))
        encoded = encode(f"{before}:{secret}{after}".encode(errors="replace")).decode()
        # Groups of three bytes at either end hold a neighbour as well.
        assert len(without_secrets(f"x-sent {encoded}")) - len("x-sent ") <= neighbours * 4 / 3 + 8


@given(SECRETS, some.data())
def test_a_piece_of_a_secret_that_was_cut_is_hidden(secret: str, data: some.DataObject) -> None:
    begin = data.draw(some.integers(0, len(secret) - LONG))
    end = data.draw(some.integers(begin + LONG, len(secret)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_TOKEN", secret)
        shown = without_secrets(f"« {secret[begin:end]}")
        pieces = {secret[at : at + LONG] for at in range(len(secret) - LONG + 1)}
        assert not any(piece in shown for piece in pieces if len(set(piece)) >= VARIED)


def test_few_characters_of_a_token_remain_where_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for kept in range(1, len(TOKEN) + 1):
        for shown in (without_secrets(f"(Bearer {TOKEN[:kept]}"), without_secrets(f"{TOKEN[-kept:]}' refused")):
            assert max(len(piece) for piece in re.findall(r"[A-Za-z_]*", shown) if piece in TOKEN) < 6
    for at in range(len(TOKEN) - 8):
        assert without_secrets(f"< {TOKEN[at : at + 8]} >") == "< … >"


def test_a_text_is_cut_after_its_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said = f"{'x' * 296}\n {TOKEN}"
    assert in_one_line(said) == f"{'x' * 296} …" and in_one_line(said, None) == f"{'x' * 296} …"
    error = SettingsError("there", f"said {TOKEN!r}", f"no {TOKEN}", "try again")
    assert str(error) == "there: said '…' (expected: no …). Fix: try again" and TOKEN not in repr(vars(error))


KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw\nggSjAgEAAoIBAQC7VJTUt9Us8cKjMzEfYyji\n-----END PRIVATE KEY-----\n"
ACCOUNT = {"type": "service_account", "project_id": "some-project", "private_key": KEY, "client_email": "robot@example.org"}


@pytest.mark.parametrize(
    ("name", "value", "shown", "hidden"),
    [
        ("MLFLOW_TRACKING_URI", "https://me:p4ssW/x@host.example/a", "host.example", ["p4ssW/x"]),
        ("LORAFLOW_DATA_REPO", "https://ghp_Tok3nTok3n@git.example/x.git", "git.example/x.git", ["ghp_Tok3nTok3n"]),
        ("AIRFLOW__CELERY__BROKER_URL", "redis://:p4ss%2Bword@redis:6379/0", "redis:6379/0", ["p4ss+word", "p4ss%2Bword"]),
        ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow:it's4\"secret@db/airflow", "airflow", ["it's4\"secret"]),
        ("AIRFLOW_CONN_A", "aws://AKIAKEY:s3cr%2Fet%2Bkey@/?region_name=eu-west-1", "eu-west-1", ["s3cr/et+key"]),
        ("AIRFLOW_CONN_B", f"gcp://?__extra__={quote_plus(json.dumps({'keyfile_dict': json.dumps(ACCOUNT)}))}", "service_account",
         ["ggSjAgEAAoI"]),
        ("AIRFLOW_CONN_C", json.dumps({"conn_type": "http", "password": "p4ss\"w'rd", "extra": {"apiKey": "k3y-k3y-k3y"}}), "conn_type",
         ["p4ss\"w'rd", "k3y-k3y-k3y"]),
        ("AIRFLOW_CONN_K", json.dumps({"extra": json.dumps({"kube_config": "users:\n- user:\n    token: eyJhbGc1OiJ\n"})}), "users",
         ["eyJhbGc1OiJ"]),
        ("GOOGLE_SERVICE_ACCOUNT", json.dumps(ACCOUNT), "some-project", [KEY, "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw"]),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=team;AccountKey=aB3+/cD4eF5==;EndpointSuffix=core", "AccountName=team",
         ["aB3+/cD4eF5=="]),
        ("WAREHOUSE_DSN", "host=db.example password='p4 ss w0rd' dbname=x", "sslmode", ["p4 ss w0rd"]),
        ("GIT_CONFIG_VALUE_0", f"Authorization: Basic {base64.b64encode(b'me:t0k-3n+x').decode()}", "Authorization",
         ["t0k-3n+x", base64.b64encode(b"me:t0k-3n+x").decode()]),
        ("GIT_CONFIG_VALUE_1", "PRIVATE-TOKEN: glpat-Abc123x", "PRIVATE", ["glpat-Abc123x"]),
        ("JAVA_OPTS", "-Xmx1g -Djavax.net.ssl.keyStorePassword=ch4ngeIt", "-Xmx1g", ["ch4ngeIt"]),
        ("SLACK_KEY", "https://hooks.example/services/T01/B02/xYz123", "https://hooks.example", ["services/T01/B02/xYz123"]),
        *((name, "aB3cD4eF5g", "name", ["aB3cD4eF5g"]) for name in (
            "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "WANDB_API_KEY", "SERVICE_APIKEY", "SENTRY_DSN", "SESSION_COOKIE", "REDIS_AUTH",
            "APP_JWT", "GH_PAT", "AWS_SESSION_TOKEN", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "TOKEN_2",
            "AIRFLOW_VAR_API_TOKEN",
        )),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",  # pytest puts it into the environment
)  # fmt: skip
def test_where_a_secret_may_stand(name: str, value: str, shown: str, hidden: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    for secret in hidden:
        for spelling in ("raw", "repr", "JSON", "address, all quoted", "form"):
            text = SPELLINGS[spelling](secret)
            assert text not in without_secrets(f"it said <{text}>"), spelling
            assert text not in without_secrets(f"{name}={value}"), spelling
    assert without_secrets(f"all about {shown} of it") == f"all about {shown} of it"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("A_TOKEN", "true"), ("A_TOKEN", "local"), ("A_PASSWORD", "airflow"), ("A_PASSWORD", "password"), ("A_AUTH", "kubernetes"),
        ("PWD", "/a/folder/data"), ("GOOGLE_APPLICATION_CREDENTIALS", "/secrets/folder/google.json"), ("SSL_KEY", "/etc/hosts"),
        ("LORAFLOW_POD_SECRETS", "loraflow-hub,loraflow-aws"), ("LORAFLOW_HUB", "hub:some-team"), ("A_PASSWORD", "==========="),
        ("A_PASSWORD", "mlflow-0w-pw"), ("A_PASSWORD", "0123456"), ("AIRFLOW_CONN_A", json.dumps({"host": "host.example", "port": 5000})),
        ("A_KEY", "-----BEGIN"), ("MLFLOW_TRACKING_URI", "http://auth.example:5000/mlflow?key="), ("A_TOKEN", "\n"), ("A_PASSWORD", "cord"),
    ],
)  # fmt: skip
def test_ordinary_words_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    text = (
        "airflow/mlflow at http://auth.example:5000/mlflow is true, a local password of kubernetes: /a/folder/data, /secrets/folder/"
        "google.json, /etc/hosts, loraflow-hub, hub:some-team, host.example, commit 012345678901, records\n===========\n"
    )
    assert without_secrets(text) == text


def test_a_word_is_hidden_as_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_PASSWORD", "sesame")
    assert without_secrets("open sesame, 'sesame' sesames") == "open …, '…' sesames"
    monkeypatch.setenv("A_PASSWORD", "open sesame")
    assert without_secrets("me:open+sesame, open%20sesame, open") == "me:…, …, open"


def test_credentials_in_texts_of_others_are_hidden_though_we_do_not_hold_them() -> None:
    assert (
        without_secrets("for url 'https://s3.example/a?X-Amz-Signature=0f3a&part=2'")
        == "for url 'https://s3.example/a?X-Amz-Signature=…&part=2'"
    )
    assert without_secrets("{'Authorization': b'Bearer abc.def', 'a': 1}") == "{'Authorization': b'Bearer …', 'a': 1}"
    assert without_secrets("at redis://:pw@host/0 and https://x@host") == "at redis://@host/0 and https://host"
    assert without_secrets("needs basic authentication") == "needs basic authentication"


def test_secrets_and_what_is_sent_with_them_are_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    given_and_wanted = {
        "HF_TOKEN": ("hf_x\n", "hf_x"), "AWS_SECRET_ACCESS_KEY": (" a b\r\n", "a b"), "AWS_ACCESS_KEY_ID": ("AKIA\n", "AKIA"),
        "MLFLOW_TRACKING_USERNAME": ("me\n", "me"), "LORAFLOW_DATA_REPO": ("https://a:bcdefg@h/x\n", "https://a:bcdefg@h/x"),
        "TEAM_INDEX": ("https://a:bcdefg@h/x\n", "https://a:bcdefg@h/x"), "HF_HUB_TOKEN": ("\n", ""),
        "SSH_KEY": (KEY, KEY), "PROMPT": ("> ", "> "),
    }  # fmt: skip
    for name, (before, _) in given_and_wanted.items():
        monkeypatch.setenv(name, before)
    strip_secrets()
    assert {name: os.environ[name] for name in given_and_wanted} == {name: wanted for name, (_, wanted) in given_and_wanted.items()}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("hf_qWErt\nYuiOpAsd", "holds a line end inside"), ("hf_qWErt\rYuiOpAsd", "holds a line end inside"),
        ("hf_qWErt\x1bYuiOpAsd", "holds a control character"), ("hf_qWErt\x7fYuiOpAsd", "holds a control character"),
        ("hf_qWErtéYuiOpAsd", "holds a character beyond ASCII"), ("\ufeffhf_qWErtYuiOpAsd", "holds a character beyond ASCII"),
    ],
)  # fmt: skip
def test_a_secret_that_no_header_can_hold(value: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(SettingsError) as caught:
        header_value("HF_TOKEN")
    assert str(caught.value) == f"HF_TOKEN: {found} (expected: what an HTTP header can hold). Fix: copy the value again"
    assert not caught.value.retryable


def test_a_secret_that_a_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f" \t{TOKEN}\r\n")
    assert header_value("HF_TOKEN") == TOKEN
    monkeypatch.delenv("HF_TOKEN")
    assert header_value("HF_TOKEN") == ""


PRINTS = """
import faulthandler, logging, os, sys, threading, warnings
from rich.console import Console
from tasks.secrets.redaction import redact_output
redact_output(); redact_output()
token = os.environ["HF_TOKEN"]
print("1", token); print(token[:9], token[9:], sep="", file=sys.stderr)
sys.stdout.writelines(["2 ", token, "\\n"])
logging.basicConfig(); logging.getLogger("library").warning("3 %r", token)
warnings.warn(f"4 {token}")
Console().print("5", token); Console(stderr=True, width=12).print("6", token)
print("7", token, end="\\r"); print("8 " + token, end="", flush=True); print("9 " + token, end="")
threading.Thread(target=lambda: 1 / len(token[:0] or {token: 0}[token * 2])).start()
threading.excepthook = sys.excepthook
sys.stderr.write("10 "); sys.stderr.write(token[:4]); sys.stderr.write(token[4:])
raise KeyboardInterrupt(token.encode())
"""


def test_nothing_that_a_process_prints_holds_a_secret() -> None:
    given = {**os.environ, "HF_TOKEN": TOKEN, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", PRINTS], env=given, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    assert [number for number in range(1, 11) if f"{number} " not in printed] == [] and "KeyError" in printed
    assert "KeyboardInterrupt: b'…'" in done.stderr, printed
    assert not any(TOKEN[at : at + 8] in printed for at in range(len(TOKEN) - 7)), printed


def test_a_task_log_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen by Airflow, whose own log of a bug is masked too."""
    import airflow.sdk.log
    from airflow.sdk.exceptions import AirflowSkipException

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said: list[Any] = []

    class Log:
        def error(self, *words: str) -> None:
            said.append(words)

    lines = StepLog(lambda text, _: said.append(text))
    lines.take(f"native code: {TOKEN!r}", 1.0)
    lines.take("Traceback (most recent call last):", 2.0)
    lines.take(f"ValueError: {TOKEN}", 2.0)
    with pytest.raises(SystemExit), retries.explain_errors(Log()):  # type: ignore[arg-type]
        raise LoraflowError("a", TOKEN)
    with pytest.raises(AirflowSkipException) as skipped:
        retries.end(Log(), 99, f"skipped: {TOKEN}")  # type: ignore[arg-type]
    assert said == ["native code: '…'", ("%s", "LoraflowError\na: …")]
    assert lines.last_words.endswith("\nValueError: …") and str(skipped.value) == "skipped: …"
    assert airflow.sdk.log.redact(f"RuntimeError: {TOKEN}") == "RuntimeError: ***"
