"""Every store behind a proxy that answers wrongly: the exact bytes, or an error that names URL, range and cause."""

import gc
import logging
import re
import time
import warnings

import pytest
from fault_proxy import FAULTS
from stores import STORES, proxied

from disttrain.errors import DisttrainError, FileChanged, StorageError, UsageError
from disttrain.storage.base import Patience
from disttrain.storage.open import open_content, open_reader, stat

CONTENT = b"x,y\n" + b"".join(b"%d,%d\n" % (number, number % 7) for number in range(5000))
START, STOP = 100, 1000
QUICK = Patience(attempts=1000, attempt_s=0.7, total_s=2.5)
PATIENT = Patience(attempts=1000, attempt_s=1.0, total_s=30.0)


pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in STORES if name != "s3"]


@pytest.fixture(scope="module", params=["s3", *OTHERS])
def store(request, stores):
    """A store with CONTENT in it."""
    found = stores(request.param)
    found.put("faults/a.csv", CONTENT)
    return found


@pytest.fixture
def proxy(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Azure's package does not close what broke
        with proxied(store) as proxy:
            stat(store.url("faults/a.csv", proxy.port))  # makes the client, which may take a second
            yield proxy
        gc.collect()


def read(store, proxy, kept, patience):
    """Reads a part of the object through the proxy; a server that gives no parts is read whole."""
    url = store.url("faults/a.csv", proxy.port)
    with open_content(url, kept, patience=patience) as reader:
        assert reader.info.size_bytes == len(CONTENT)
        buffer = bytearray(STOP - START)
        reader.read_into(START, memoryview(buffer))
        return bytes(buffer)


def is_read(request):
    """Whether a request reads the object: a part of it or, from a server that gives no parts, all."""
    return request.is_read or (request.method == "GET" and request.span is None and request.path == "/faults/a.csv")


def is_size(request):
    return request.asks_for_size_of("a.csv")


def is_unsigned(store, fault):
    """Clients that sign requests follow a redirect to another host without the signature, and are refused there."""
    return store.name in ("s3", "azure") and fault == "redirected"


FAULTS_OF_PARTS = {"shifted", "stale", "whole"}  # which a server that gives no parts cannot show


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_of_a_read_costs_time_alone(store, proxy, tmp_path, fault):
    if store.name == "python" and fault in FAULTS_OF_PARTS:
        pytest.skip("gives no parts")
    proxy.faults(fault, is_read, times=2)
    if fault in ("stale", "whole") or is_unsigned(store, fault):
        with pytest.raises(DisttrainError, match=r"changed while|byte ranges|permission denied"):
            read(store, proxy, tmp_path, PATIENT)
    else:
        assert read(store, proxy, tmp_path, PATIENT) == CONTENT[START:STOP]
    assert any(request.fault == fault for request in proxy.requests)


LASTING = {  # the fault, the error, and what it says of the cause
    "429": (StorageError, "429|Too Many Requests"),
    "500": (StorageError, "500|Internal Server Error"),
    "503": (StorageError, "503|Service Unavailable"),
    "reset": (StorageError, "reset|disconnected|Connect"),
    "truncated": (StorageError, "payload|not enough data|Timeout"),  # Azure's package tries longer than we wait
    "stalled": (StorageError, "Timeout"),
    "of wrong length": (StorageError, "asked for"),
    "shifted": (StorageError, "Content-Range|asked for"),
    "stale": (FileChanged, "changed while it was being read"),
    "whole": (StorageError, "does not serve byte ranges"),
    "redirected": (UsageError, "permission denied"),  # if at all
}


def is_error(store, fault):
    """Azure's package asks by itself for bytes that an answer lacks; an unsigned redirect leads where it says."""
    return is_unsigned(store, fault) or not (
        fault == "redirected" or (store.name, fault) == ("azure", "of wrong length")
    )


@pytest.mark.parametrize("fault", LASTING)
def test_a_lasting_fault_of_a_read_is_an_error_in_time(store, proxy, tmp_path, caplog, fault):
    if store.name == "python" and fault in FAULTS_OF_PARTS:
        pytest.skip("gives no parts")
    proxy.faults(fault, is_read)
    kind, cause = LASTING[fault]
    begun_s = time.monotonic()
    with caplog.at_level(logging.WARNING, "disttrain"):
        if not is_error(store, fault):
            assert read(store, proxy, tmp_path, QUICK) == CONTENT[START:STOP]
            return
        with pytest.raises(kind) as caught:
            read(store, proxy, tmp_path, QUICK)
    said = str(caught.value)
    assert "\n" not in said
    assert time.monotonic() - begun_s < 2 * QUICK.total_s
    assert store.url("faults/a.csv", proxy.port) in said
    assert re.search(cause, said, re.IGNORECASE), said
    if store.name != "python" and kind is not UsageError:
        assert "100" in said
        assert "999" in said or "1000" in said, said
    if kind is StorageError and fault != "whole":
        assert "asking again" in caplog.text


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "stalled", "truncated", "redirected"])
def test_a_fault_of_the_size_request_is_survived_or_told(store, proxy, tmp_path, fault):
    if is_unsigned(store, fault):
        pytest.skip("tried above")
    proxy.faults(fault, is_size, times=2)
    assert read(store, proxy, tmp_path, PATIENT) == CONTENT[START:STOP]
    assert any(request.fault == fault for request in proxy.requests)
    proxy.faults(fault, is_size)
    begun_s = time.monotonic()
    url = store.url("faults/a.csv", proxy.port)
    if fault == "redirected" or (fault in ("stalled", "truncated") and store.name != "google"):
        open_reader(url, patience=QUICK).close()  # an answer to HEAD has nothing that is cut
    else:
        with pytest.raises(StorageError, match="did not give the file's size") as caught:
            open_reader(url, patience=QUICK)
        assert url in str(caught.value)
    assert time.monotonic() - begun_s < 2 * QUICK.total_s
