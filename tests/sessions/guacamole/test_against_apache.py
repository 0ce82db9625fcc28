"""Our codec and Apache's own JavaScript read and write the same, checked by running theirs in Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from sessions.guacamole import Decoder, DownwardFilter, Instruction, RemoteProtocolError, decode, encode
from tests.fakes.guacd_words import DOWNWARD_SAMPLES, FIRST_FRAME
from tests.sessions.guacamole.vectors import SPELLINGS

MODULE = Path(__file__).parents[3] / "node_modules" / "@dushixiang" / "guacamole-common-js"

SCRIPT = """
const Guacamole = require(process.argv[1]);
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const read = (pieces) => {
    const found = [];
    const parser = new Guacamole.Parser();
    parser.oninstruction = (opcode, args) => found.push([opcode, ...args]);
    try { for (const piece of pieces) parser.receive(piece); }
    catch (error) { found.push(null); }
    return found;
};
console.log(JSON.stringify({
    read: cases.read.map(read),
    written: cases.write.map((elements) => Guacamole.Parser.toInstruction(elements)),
}));
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: not compared with Apache's parser"),
    pytest.mark.skipif(
        not MODULE.is_dir(),
        reason="node_modules has no guacamole-common-js (npm ci): not compared with Apache's parser",
    ),
]


def ask_apache(*, read: list[list[str]], write: list[list[str]]) -> tuple[list[list[list[str] | None]], list[str]]:
    """Let Apache's parser read texts in pieces and write instructions; None stands for its error."""
    result = subprocess.run(
        ["node", "-e", SCRIPT, str(MODULE)],
        input=json.dumps({"read": read, "write": write}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer = json.loads(result.stdout)
    return answer["read"], answer["written"]


def elements(instructions: list[Instruction]) -> list[list[str]]:
    return [[instruction.opcode, *instruction.args] for instruction in instructions]


def random_text(random: Random, longest: int) -> str:
    alphabet = "0123456789.,;abè€☕😀𝔊\n\0"
    return "".join(random.choices(alphabet, k=random.randrange(longest)))


def test_both_write_the_same() -> None:
    random = Random(20261123)
    written = [[opcode, *args] for opcode, args, _ in SPELLINGS]
    written += [[random_text(random, 12) for _ in range(random.randrange(1, 6))] for _ in range(2000)]
    _, theirs = ask_apache(read=[], write=written)
    assert theirs == [encode(*instruction) for instruction in written]


def test_both_read_the_same_wherever_characters_are_cut() -> None:
    random = Random(20261123)
    texts = [text + "3.nop;" for _, _, text in SPELLINGS] + [FIRST_FRAME]
    for _ in range(1000):
        instructions = [[random_text(random, 9) for _ in range(random.randrange(1, 5))] for _ in range(4)]
        texts.append("".join(encode(*instruction) for instruction in instructions))
    pieces = []
    for text in texts:
        cut = random.randrange(len(text) + 1)
        pieces.append([text[:cut], text[cut:]])
    theirs, _ = ask_apache(read=pieces, write=[])
    assert theirs == [elements(decode(text)) for text in texts]


def test_what_we_accept_of_hostile_text_apache_reads_as_we_do() -> None:
    random = Random(20261123)
    samples = [encode(opcode, *map(str, args)) for opcode, args in DOWNWARD_SAMPLES.items()]
    texts, ours = [], []
    for _ in range(3000):
        text = "".join(random.choices(samples, k=4))
        at = random.randrange(len(text))
        text = (
            text[:at] + random.choice(["", random_text(random, 4), random.choice("0123456789.,;☕😀")]) + text[at + 1 :]
        )
        decoder, accepted = Decoder(), []
        try:
            for instruction in decoder.feed(text):
                accepted.append(instruction.encode())
        except RemoteProtocolError:
            pass
        texts.append(["".join(accepted)])
        ours.append(elements(decode("".join(accepted))))
    theirs, _ = ask_apache(read=texts, write=[])
    assert theirs == ours
    assert any(len(instructions) < 4 for instructions in ours)


def test_nothing_that_is_held_back_reaches_apaches_parser() -> None:
    hidden = [encode(opcode, "0", "4.sync,1.0;", "x") for opcode in ("nest", "required", "ready", "argv", "pipe", "")]
    text = "".join(f"{FIRST_FRAME}{encode('name', instruction)}{instruction}" for instruction in hidden)
    theirs, _ = ask_apache(read=[[DownwardFilter().receive(text.encode()).text]], write=[])
    opcodes = {instruction[0] for instruction in theirs[0] if instruction is not None}
    assert opcodes == {"size", "rect", "cfill", "img", "blob", "end", "name"}
