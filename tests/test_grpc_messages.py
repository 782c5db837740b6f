"""chat.proto against the events and structs of ``shared``: same names, nothing lost, no drift in generated code."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.grpc import chat_pb2, image_generation_pb2
from protocols.grpc.convert import from_event_message, from_message, to_event_bytes, to_event_message, to_message
from shared import reply, session
from shared.events import (
    EVENT_TYPES,
    Chunk,
    Event,
    ImageChunk,
    TurnCancelled,
    TurnStarted,
    Usage,
    event_type,
    to_json,
)
from shared.stats import ServerStats

FOLDER = Path(chat_pb2.__file__).parent
ROOT = FOLDER.parents[1]
CHAT = chat_pb2.DESCRIPTOR

AWKWARD = (
    "",
    " ",
    "\n\n\t",
    "\u2028\u2029\u0085",
    "e\u0301",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "```py\n  x\n```",
    "\x00\x7f",
    "\ufeff",
    "\r\n",
)
AT: dict[str, Any] = {"turn_id": "0b7f3c62-1d7e-4f0e-9a53-6f4a4f6f0c11", "seq": 42, "at": 1795000000123.456}

PAIRS: tuple[tuple[type[msgspec.Struct], type[Message]], ...] = (
    (Usage, chat_pb2.Usage),
    (session.Session, chat_pb2.Session),
    (session.SessionPage, chat_pb2.SessionPage),
    (session.Message, chat_pb2.Message),
    (session.ModelInfo, chat_pb2.ModelInfo),
    (session.SessionUpdate, chat_pb2.SessionUpdate),
    (reply.Snapshot, chat_pb2.TurnSnapshot),
    (ServerStats, chat_pb2.ServerStats),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a struct's field; numbers are those that both sides can hold."""
    simple = {
        str: st.sampled_from(AWKWARD) | st.text(),
        int: st.integers(0, 2**31 - 1),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        bytes: st.binary(),
        type(None): st.none(),
    }
    if hint in simple:
        return simple[hint]
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is list:
        return st.lists(values(get_args(hint)[0]), max_size=3)
    if get_args(hint):
        return st.one_of([values(arg) for arg in get_args(hint)])
    return structs(hint)


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values(hint) for name, hint in hints(kind).items()})


def hints(kind: type[Any]) -> dict[str, Any]:
    types = get_type_hints(kind)
    return {name: types[name] for name in kind.__struct_fields__}


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_event_survives_the_wire(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(structs(kind))
    wire = to_event_bytes(event)
    message = chat_pb2.Event.FromString(wire)
    back = from_event_message(message)
    assert type(back) is kind
    assert back == event
    assert to_json(back) == to_json(event)
    assert message == to_event_message(event)
    assert message.WhichOneof("body") == event_type(event)


@pytest.mark.parametrize(("kind", "wire"), PAIRS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_struct_survives_the_wire(kind: type[msgspec.Struct], wire: type[Message], data: st.DataObject) -> None:
    value = data.draw(structs(kind))
    back = from_message(wire.FromString(to_message(value, wire).SerializeToString()), kind)
    assert back == value
    assert to_json(back) == to_json(value)


def test_a_chunk_on_the_wire_byte_by_byte() -> None:
    event = Chunk(turn_id="t", seq=300, at=0.5, text="hé")
    expected = b"\x0a\x01t" + b"\x10\xac\x02" + b"\x19" + struct.pack("<d", 0.5) + b"\x2a\x05\x0a\x03h\xc3\xa9"
    assert to_event_bytes(event) == expected


@pytest.mark.parametrize("text", AWKWARD)
def test_text_is_never_touched(text: str) -> None:
    chunk = Chunk(**AT, text=text)
    assert from_event_message(chat_pb2.Event.FromString(to_event_bytes(chunk))) == chunk


def test_none_and_the_empty_string_differ_on_the_wire() -> None:
    def started(session_id: str | None, request_id: str | None) -> bytes:
        common: dict[str, Any] = {"kind": "chat", "input": "", "model": "m", "context_messages": 0}
        return to_event_bytes(TurnStarted(**AT, **common, session_id=session_id, request_id=request_id))

    assert len({started(*pair) for pair in ((None, None), ("", None), (None, ""), ("", ""))}) == 4


def test_numbers_up_to_64_bits_and_a_full_piece_of_a_picture() -> None:
    event = ImageChunk(turn_id="t", seq=2**63 - 1, at=0.0, image_id="i", offset=2**40, data=bytes(range(256)) * 256)
    assert from_event_message(chat_pb2.Event.FromString(to_event_bytes(event))) == event


def test_usage_that_a_foreign_server_leaves_out_is_unknown() -> None:
    message = chat_pb2.Event(turn_id="t", seq=1, at=1.0, turn_cancelled=chat_pb2.TurnCancelled(chunks=2))
    event = from_event_message(message)
    assert event == TurnCancelled(turn_id="t", seq=1, at=1.0, usage=Usage(None, None), chunks=2, sha256=None)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        chat_pb2.Event(turn_id="t", seq=1).SerializeToString() + b"\xfa\x3f\x00",
        chat_pb2.Event(turn_started=chat_pb2.TurnStarted(kind="film")).SerializeToString(),
    ],
    ids=["empty", "newer event", "unknown kind"],
)
def test_what_is_not_one_of_our_events_is_refused(wire: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        from_event_message(chat_pb2.Event.FromString(wire))


def test_a_field_that_the_proto_lacks_is_an_error_and_not_lost() -> None:
    with pytest.raises(ValueError, match="has no"):
        to_message(Usage(1, 2), chat_pb2.Chunk)


WIRE_TYPES = {
    str: {FieldDescriptor.TYPE_STRING},
    int: {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64},
    float: {FieldDescriptor.TYPE_DOUBLE},
    bool: {FieldDescriptor.TYPE_BOOL},
    bytes: {FieldDescriptor.TYPE_BYTES},
}


def bodies() -> dict[str, Descriptor]:
    """The bodies of ``Event`` that are events; a heartbeat is no part of a log."""
    fields = CHAT.message_types_by_name["Event"].oneofs_by_name["body"].fields
    return {field.name: field.message_type for field in fields if field.message_type and field.name != "heartbeat"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *((kind, bodies()[str(kind.__struct_config__.tag)]) for kind in EVENT_TYPES),
        *((kind, wire.DESCRIPTOR) for kind, wire in PAIRS),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_fields_have_the_same_names_types_and_nulls(kind: type[msgspec.Struct], message: Descriptor) -> None:
    head = Event.__struct_fields__ if issubclass(kind, Event) else ()
    ours = {name: hint for name, hint in hints(kind).items() if name not in head}
    assert [field.name for field in message.fields] == list(ours)
    for field in message.fields:
        hint = ours[field.name]
        nullable = type(None) in get_args(hint)
        (inner, *_) = [arg for arg in get_args(hint) if arg is not type(None)] if nullable else [hint]
        inner = type(get_args(inner)[0]) if get_origin(inner) is Literal else inner
        if field.message_type is not None:
            element = get_args(inner)[0] if field.is_repeated else inner
            assert field.message_type.name == element.__name__
        else:
            assert field.type in WIRE_TYPES[inner], field.full_name
            assert field.has_presence == nullable, field.full_name


def test_the_event_is_its_head_and_one_body_a_type() -> None:
    head = [field.name for field in CHAT.message_types_by_name["Event"].fields if field.containing_oneof is None]
    assert head == list(Event.__struct_fields__) == ["turn_id", "seq", "at"]
    assert list(bodies()) == [kind.__struct_config__.tag for kind in EVENT_TYPES]
    assert [message.name for message in bodies().values()] == [kind.__name__ for kind in EVENT_TYPES]


def test_chat_has_the_names_of_the_websocket() -> None:
    client = "chat image create_session join_session resume cancel typing_start typing_stop ping"
    server = "event connected session_created session_joined resumed session_update pong error heartbeat"
    for message, names in (("ChatRequest", client), ("ChatResponse", server)):
        (body,) = CHAT.message_types_by_name[message].oneofs
        assert [field.name for field in body.fields] == names.split()
    schema = FileDescriptorProto.FromString(CHAT.serialized_pb)
    assert {message.name: list(message.reserved_name) for message in schema.message_type}["ChatRequest"] == ["auth"]


def test_the_service_is_the_one_in_the_contract() -> None:
    unary = """CreateSession GetSessionInfo ListSessions ListMessages ClearSession DeleteSession
    ListModels GetServerStats StartTurn GetTurn CancelTurn Echo"""
    expected = dict.fromkeys(unary.split(), (False, False))
    expected |= dict.fromkeys(("GetImage", "SendMessage", "GenerateImage", "ResumeTurn"), (False, True))
    expected |= {"Chat": (True, True)}
    service = CHAT.services_by_name["ChatService"]
    assert service.full_name == "chat.ChatService"
    assert {rpc.name: (rpc.client_streaming, rpc.server_streaming) for rpc in service.methods} == expected
    for name in ("SendMessage", "GenerateImage", "ResumeTurn"):
        assert service.methods_by_name[name].output_type.full_name == "chat.Event"


def test_the_image_service_is_the_articles() -> None:
    file = image_generation_pb2.DESCRIPTOR
    (rpc,) = file.services_by_name["ImageGenerationService"].methods
    assert rpc.full_name == "imagegeneration.ImageGenerationService.GenerateImage"
    assert not rpc.client_streaming
    assert not rpc.server_streaming
    fields = {
        message.name: {field.name: field.number for field in message.fields}
        for message in (rpc.input_type, rpc.output_type)
    }
    assert fields == {
        "ImageRequest": {"prompt": 1, "size": 2, "api_key": 3},
        "ImageResponse": {"image": 1, "filename": 2},
    }


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def schemas(tmp_path: Path) -> list[FileDescriptorProto]:
    out = tmp_path / "set.bin"
    protos = [f"protocols/grpc/{name}.proto" for name in ("chat", "image_generation")]
    options = ("--include_source_info", f"--descriptor_set_out={out}")
    done = run("-m", "grpc_tools.protoc", "-I.", *options, *protos, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def test_every_rpc_and_every_thing_is_explained(schemas: list[FileDescriptorProto]) -> None:
    for schema in schemas:
        explained = {tuple(at.path) for at in schema.source_code_info.location if at.leading_comments.strip()}
        services = [(service.name, (6, i)) for i, service in enumerate(schema.service)]
        rpcs = [
            (rpc.name, (6, i, 2, j)) for i, service in enumerate(schema.service) for j, rpc in enumerate(service.method)
        ]
        things = [
            (message.name, (4, i))
            for i, message in enumerate(schema.message_type)
            if not message.name.endswith(("Request", "Response"))
        ]
        assert [name for name, path in services + rpcs + things if path not in explained] == []


def test_field_numbers_have_no_gap_and_names_are_snake_case(schemas: list[FileDescriptorProto]) -> None:
    for schema in schemas:
        for message in schema.message_type:
            assert [field.number for field in message.field] == list(range(1, len(message.field) + 1)), message.name
            assert all(field.name == field.name.lower() for field in message.field), message.name


def test_the_committed_code_is_what_the_protos_give_from_any_folder(tmp_path: Path) -> None:
    done = run(FOLDER / "setup.py", "--check", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_changed_proto_and_a_missing_file_are_noticed_and_mended(tmp_path: Path) -> None:
    copy = tmp_path / "protocols" / "grpc"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    proto = copy / "chat.proto"
    proto.write_text(proto.read_text(encoding="utf-8").replace("double at = 3;", "double at_ms = 3;"), encoding="utf-8")
    (copy / "image_generation_pb2_grpc.py").unlink()

    drifted = run(copy / "setup.py", "--check", cwd=tmp_path)
    assert drifted.returncode == 1
    assert "chat_pb2.py, chat_pb2.pyi, image_generation_pb2_grpc.py" in drifted.stderr
    assert "python protocols/grpc/setup.py" in drifted.stderr
    assert run(copy / "setup.py", cwd=tmp_path).returncode == 0
    assert run(copy / "setup.py", "--check", cwd=tmp_path).returncode == 0


def test_a_proto_that_does_not_parse_is_told_in_protocs_words(tmp_path: Path) -> None:
    copy = tmp_path / "protocols" / "grpc"
    copy.mkdir(parents=True)
    for name in ("setup.py", "image_generation.proto"):
        shutil.copy(FOLDER / name, copy)
    (copy / "chat.proto").write_text("message {", encoding="utf-8")
    done = run(copy / "setup.py", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert "protocols/grpc/chat.proto:1:" in done.stderr


@pytest.mark.parametrize("folder", [ROOT, ROOT / "protocols", FOLDER], ids=["root", "protocols", "leaf"])
def test_the_folder_never_hides_the_library(folder: Path) -> None:
    code = "import grpc, grpc.aio; from protocols.grpc import chat_pb2_grpc as c; print(grpc.__file__, c.__name__)"
    done = run("-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    library, generated = done.stdout.split()
    assert ROOT / "protocols" not in Path(library).parents
    assert generated == "protocols.grpc.chat_pb2_grpc"
