"""`zoo roundtrip`: sentences beside what a space makes of them."""

import pytest

from zoo.__main__ import main
from zoo.evals.autobleu import bleu
from zoo.sonar import Space


def test_sentences_stand_beside_what_comes_back(folder, tiny, tmp_path, capsys):
    texts = tiny.texts[:6]
    (tmp_path / "text.txt").write_text("\n".join(texts[2:]))
    main(["roundtrip", str(folder), "--text", texts[0], "--text", texts[1], "--file", str(tmp_path / "text.txt")])
    lines = capsys.readouterr().out.splitlines()
    space = Space.opened(folder)
    back = space.decode(space.encode(texts))
    assert lines[:-1:2] == texts
    assert lines[1:-1:2] == [f"  {'=' if a == b else '→'} {b}" for a, b in zip(texts, back)]
    same = sum(a == b for a, b in zip(texts, back))
    assert lines[-1] == f"— {same} of 6 come back as they were; AutoBLEU {bleu(back, texts):.1f}"


def test_languages_and_noise(folder, tiny, capsys):
    said = []
    for more in ([], ["--into", "fra_Latn"], ["--noise", "3"], ["--noise", "3", "--seed", "1"]):
        main(["roundtrip", str(folder), "--text", "\n".join(tiny.texts[:8]), "--beam", "1", *more])
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 4
    for words, why in ((["--text", " "], "no sentence to encode"), (["--text", "One.", "--noise", "1"], "two or more")):
        with pytest.raises(SystemExit, match=why):
            main(["roundtrip", str(folder), *words])
