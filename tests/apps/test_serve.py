"""The JSON API of a served run: the form of its answers, and that they are those of predict.py."""

from __future__ import annotations

import io
import json
import random
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
pytest.importorskip("python_multipart", reason="needs the extra [serve]")
from fastapi.testclient import TestClient
from PIL import Image
from served import LABELS, make_model

from flash_sparse_apps import predict
from flash_sparse_apps.serving.api import make_app
from flash_sparse_apps.serving.limits import Limits


def client_of(model, limits: Limits = Limits()) -> TestClient:  # noqa: B008, it is frozen
    return TestClient(make_app(model, "tiny", "cpu", 4096, None, limits), base_url="http://localhost")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def client(model):
    with client_of(model) as client:
        yield client


def texts(count: int) -> list[str]:
    draw = random.Random(5)
    words = [f"word{number}" for number in range(40)] + ["keyapple", "keyfig", "keypear"]
    return [" ".join(draw.choice(words) for _ in range(draw.choice([1, 2, 7, 40, 300]))) for _ in range(count)]


def ask(client, **body):
    return client.post("/predict", json=body)


def test_one_text_gives_sorted_scores(client):
    answer = ask(client, inputs="word1 keyapple word2")
    assert answer.status_code == 200
    rows = answer.json()
    assert [set(row) for row in rows] == [{"label", "score"}] * 3
    assert {row["label"] for row in rows} == set(LABELS)
    assert rows[0]["label"] == "apple"
    assert rows == sorted(rows, key=lambda row: -row["score"])
    assert client.post("/", json={"inputs": "word1 keyapple word2", "parameters": {}}).json() == rows


def test_a_batch_gives_a_list_for_each(client):
    single = [ask(client, inputs=text).json() for text in texts(5)]
    assert ask(client, inputs=[[text] for text in texts(5)]).json() == single


def test_raw_scores_are_log_odds(client):
    scores, raw = (
        {row["label"]: row["score"] for row in ask(client, inputs="word1 keyfig", raw_scores=raw).json()}
        for raw in (False, True)
    )
    for label in LABELS:
        assert scores[label] == pytest.approx(1 / (1 + np.exp(-raw[label])), rel=1e-6)


def test_predictions_are_those_of_predict_to_the_last_digit(model, tmp_path, capsys):
    """For requests that come one by one, together, and as a batch."""
    documents = texts(40)
    model.save(tmp_path / "run" / "model", "")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    capsys.readouterr()
    assert predict.main([str(tmp_path / "run"), str(rows), "--evidence", "--accelerator", "cpu"]) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with client_of(model) as client:
        batch = ask(client, inputs=[[text] for text in documents], detail=True).json()
        alone = [ask(client, inputs=text, detail=True).json() for text in documents]
        together: list = [None] * len(documents)

        def ask_for(place):
            together[place] = ask(client, inputs=documents[place], detail=True).json()

        threads = [threading.Thread(target=ask_for, args=(place,)) for place in range(len(documents))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for found in (batch, alone, together):
        for row, right in zip(found, expected, strict=True):
            assert list(row["probabilities"].items()) == list(right["probabilities"].items())
            assert {key: row[key] for key in right if key != "id"} == {key: right[key] for key in right if key != "id"}


def test_too_long_a_text_is_refused_with_its_length(client):
    long = "word1 " * 2000
    answer = ask(client, inputs=long)
    assert answer.status_code == 413
    assert answer.json()["error_type"] == "Validation"
    assert "2001 tokens" in answer.json()["error"]
    assert ask(client, inputs=long, truncate=True).status_code == 200


def test_the_side_at_which_a_text_is_cut(client):
    text = "keyapple " + "word1 " * 2000 + "keyfig"
    right = ask(client, inputs=text, truncate=True, detail=True).json()
    left = ask(client, inputs=text, truncate=True, truncation_direction="left", detail=True).json()
    assert (right["labels"], left["labels"]) == ([LABELS[0]], [LABELS[1]])
    assert right["truncated"]
    (passage, *_) = left["evidence"][LABELS[1]]
    assert "keyfig" in passage["text"] == text[passage["start"] : passage["end"]]


def test_detail(client):
    text = " ".join(["word1"] * 200 + ["keyfig"] + ["word2"] * 50)
    answer = ask(client, inputs=text, detail=True).json()
    assert answer["labels"] == [LABELS[1]]
    assert (answer["tokens"], answer["truncated"]) == (252, False)
    (first, *_) = answer["evidence"][LABELS[1]]
    assert "keyfig" in first["text"] == text[first["start"] : first["end"]]
    assert "evidence" not in ask(client, inputs=text, detail=True, evidence=False).json()
    assert ask(client, inputs="word1", detail=True).json()["review"] == ["No label reaches its threshold."]
    assert ask(client, inputs="word1 nobody keyfig", detail=True).json()["unknown"] == "nobody"
    assert ask(client, inputs="word1 " + "x" * 10_000, detail=True).json()["unknown"] == "x" * 80


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        (b"{", 400, "Validation", "no JSON"),
        (b"[" * 100_000, 400, "Validation", "no JSON"),
        (b'{"inputs": "caf\xe9"}', 400, "Validation", "not in UTF-8"),
        (b"", 422, "Validation", "content-type: application/json"),
        (b"[]", 422, "Validation", "no JSON object"),
        (b'{"inputs": 5}', 422, "Validation", "expected a text"),
        (b"{}", 422, "Validation", "inputs"),
        (b'{"inputs": [["a"], "b"]}', 422, "Validation", "inputs"),
        (b'{"inputs": "a", "raw_scores": []}', 422, "Validation", "raw_scores"),
        (b'{"inputs": "a", "truncation_direction": "up"}', 422, "Validation", "truncation_direction"),
        (b'{"inputs": ["a", "b"]}', 422, "Validation", "a batch is [[text], [text]]"),
        (b'{"inputs": " "}', 400, "Empty", "empty"),
        (b'{"inputs": []}', 422, "Validation", "0 texts"),
        (json.dumps({"inputs": [["word1"]] * 65}).encode(), 413, "Validation", "batch size 65 > "),
        (b'{"inputs": "\\ud800 word1"}', 200, None, ""),
    ],
)
def test_mistakes_are_errors_of_one_form(client, body, status, kind, said):
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    if kind is not None:
        assert answer.json().keys() == {"error", "error_type"}
        assert answer.json()["error_type"] == kind
        assert said in answer.json()["error"]
    assert ask(client, inputs="word1").status_code == 200


def test_json_of_another_type_is_told_so(client):
    """curl sends a form where nothing is said."""
    head = {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/predict", content=b'{"inputs": "word1"}', headers=head)
    assert (answer.status_code, "content-type: application/json" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize("wrong", [{}, ["a", "b", "c"], [["a"]]])
def test_of_many_wrong_rows_the_first_ends_the_check(wrong):
    from pydantic import ValidationError

    from flash_sparse_apps.serving.schema import PredictRequest

    with pytest.raises(ValidationError) as raised:
        PredictRequest(inputs=[wrong] * 50)
    assert raised.value.error_count() <= 3  # one for each form


def test_other_methods(client):
    for path in ("/health", "/info", "/metrics", "/"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    answer = client.put("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_the_server_answers_while_it_looks_for_unknown_words(client, monkeypatch):
    from flash_sparse_apps.prediction import labelling

    decide, begun, go_on = labelling.decide, threading.Event(), threading.Event()

    def slow(*given):
        begun.set()
        assert go_on.wait(30)
        return decide(*given)

    monkeypatch.setattr(labelling, "decide", slow)
    asking = threading.Thread(target=ask, args=(client,), kwargs={"inputs": "word1"})
    asking.start()
    assert begun.wait(30)
    healthy = threading.Thread(target=lambda: client.get("/health") and go_on.set())
    healthy.start()
    healthy.join(10)
    answered = go_on.is_set()
    go_on.set()
    asking.join()
    healthy.join()
    assert answered


def test_files(client):
    content = b"\xef\xbb\xbf" + ("\U0001f600 word1\r\n" * 60 + "keypear").encode()
    answer = client.post("/predict/files", files=[("file", ("a.txt", content)), ("file", ("<b>", b"keyapple"))])
    assert answer.status_code == 200, answer.text
    first, second = answer.json()
    assert (first["id"], first["labels"], second["id"]) == ("a.txt", ["pear"], "<b>")
    passage = first["evidence"]["pear"][0]
    assert first["text"][passage["start"] : passage["end"]] == passage["text"]
    assert "keypear" in passage["text"]


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("a.pdf", b"%PDF-1.4", 422, "a.pdf: damaged PDF, or none"),
        (
            "a.doc",
            b"word1",
            422,
            "a.doc: a document of an older or another kind; expected plain text in UTF-8, PDF, Word",
        ),
        ("a.docx", b"", 400, "a.docx: empty"),
        ("a.csv", b"text\nword1", 422, "a table"),
        ("a.txt", b"caf\xe9", 422, "not UTF-8 at byte 4"),
        ("a.bin", b"a\0b", 422, "not a text"),
        ("a.txt", b" \n", 400, "empty"),
        ("a.png", b"\x89PNG", 422, "an image, but this run reads texts"),
        ("a.txt", b"word1 " * 2000, 413, "a.txt: 2001 tokens"),
    ],
)
def test_files_that_are_refused(client, name, content, status, said):
    answer = client.post("/predict/files", files={"file": (name, content)})
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_no_file_is_written(client, monkeypatch):
    import tempfile

    def refuse(*_):
        raise AssertionError("a document is written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    content = b"word1 " * 1_000_000  # 6 MB, where 1 MB is the most that stays in memory by default
    answer = client.post("/predict/files", files={"file": ("a.txt", content)}, data={"truncate": "true"})
    assert answer.status_code == 200, answer.text


def test_a_form_without_files(client):
    assert client.post("/predict/files", data={"truncate": "true"}).status_code == 422
    head = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/predict/files", content=b"not a form", headers=head).status_code in (400, 422)
    files = {"file": ("a.txt", b"word1")}
    assert client.post("/predict/files", files=files, data={"truncate": "perhaps"}).status_code == 422


def test_pairs():
    from flash_sparse_apps.models.two_towers import TwoTowers

    single = make_model()
    model = make_model(encoder=TwoTowers(single.encoder).eval(), pairs=True)
    with client_of(model) as client:
        assert client.get("/info").json()["flash_sparse"]["reads"] == "pairs"
        one = ask(client, inputs=["word1", "word2"]).json()
        assert ask(client, inputs=[["word1", "word2"], ["word3", "word1"]]).json()[0] == one
        assert "evidence" not in ask(client, inputs=["word1", "word2"], detail=True).json()
        assert "two texts" in ask(client, inputs="word1").json()["error"]
        assert client.post("/predict/files", files={"file": ("a.txt", b"word1")}).status_code == 422


def test_images():
    from flash_sparse.nn import Encoder
    from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer

    arguments = {"vocab_size": 257, "width": 16, "depth": 1, "heads": 2, "num_outputs": 2}
    described = {"encoder": Encoder(**arguments).eval(), "encoder_arguments": arguments, "labels": ("no", "yes")}
    described |= {"task": "single-label", "thresholds": None, "tokenizer": ByteTokenizer(), "seq_len": 16}
    with client_of(make_model(**described, grid=(4, 4))) as client:

        def send(size: tuple[int, int]):
            picture = io.BytesIO()
            Image.fromarray(np.zeros(size, np.uint8)).save(picture, "PNG")
            return client.post("/predict/files", files={"file": ("a.png", picture.getvalue())})

        (row,) = send((4, 4)).json()
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert "text" not in row
        assert "5 x 4 pixels, expected 4 x 4" in send((5, 4)).json()["error"]
        assert client.post("/predict/files", files={"file": ("a.png", b"\x89PNG")}).status_code == 422
        assert "on images" in ask(client, inputs="word1").json()["error"]


def test_info_health_and_metrics(client):
    info = client.get("/info").json()
    assert info["model_type"]["classifier"]["id2label"] == {str(i): label for i, label in enumerate(LABELS)}
    assert info["max_input_length"] == 1024
    assert info["flash_sparse"]["thresholds"] == dict(zip(LABELS, [0.5, 0.5, 0.4], strict=True))
    assert client.get("/health").status_code == 200
    before = client.get("/metrics").text
    ask(client, inputs="word1 keyapple")
    after = client.get("/metrics").text

    def count(text: str) -> float:
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("te_request_success_total"))

    assert count(after) == count(before) + 1
    assert "keyapple" not in after


def test_more_than_may_wait_is_refused(model):
    with client_of(model, Limits(waiting=3)) as client:
        answer = ask(client, inputs=[["word1"]] * 4)
        assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
        assert ask(client, inputs=[["word1"]] * 3).status_code == 200


def test_an_error_of_the_model_is_no_end_and_quotes_nothing(model, monkeypatch, caplog):
    from flash_sparse_apps.serving import batching

    with client_of(model) as client:
        secret = " ".join(["words", "of", "a", "document"])

        def fail(*_):
            raise RuntimeError(secret)

        with monkeypatch.context() as patched:
            patched.setattr(batching, "compute_logits", fail)
            answer = ask(client, inputs="word1")
            assert (answer.status_code, answer.json()["error_type"]) == (500, "Backend")
        assert secret not in answer.text + caplog.text
        assert "RuntimeError" in caplog.text
        assert ask(client, inputs="word1").status_code == 200
        assert client.get("/health").status_code == 200


def test_what_is_too_slow_is_given_up(model, monkeypatch):
    from flash_sparse_apps.serving import batching

    go_on = threading.Event()
    compute = batching.compute_logits
    with client_of(model, Limits(seconds=0.2)) as client, monkeypatch.context() as patched:
        patched.setattr(batching, "compute_logits", lambda *given: go_on.wait(30) and compute(*given))
        answer = ask(client, inputs="word1")
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Overloaded")
        go_on.set()


def test_openapi_describes_the_routes(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/predict/files", "/health", "/info", "/metrics"}
    properties = described["components"]["schemas"]["PredictRequest"]["properties"]
    assert {"inputs", "raw_scores", "truncate", "truncation_direction", "detail"} <= set(properties)
